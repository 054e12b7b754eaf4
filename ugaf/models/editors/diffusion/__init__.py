"""Diffusion editors in the pipeline's own workers, on Hugging Face diffusers: see `engine`."""
