"""The steps of the U-GAF pipeline: one folder a stage of the paper, one file a step."""
