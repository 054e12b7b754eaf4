"""The stages of FineEdit's U-GAF pipeline (arXiv 2604.10954, figure 4), a file each; imported as `ugaf.stages`."""
