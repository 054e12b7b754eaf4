"""The embedded detector: objects by segmentation, without a model."""
