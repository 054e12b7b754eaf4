"""Verifiers: was the edit done, was the rest left alone; by measurement or by a vision-language model."""
