"""FineEdit's model (arXiv 2604.10954, section 3): Qwen-Image-Edit that is told the box by latents, and its pipeline."""
