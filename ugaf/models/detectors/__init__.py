"""Detectors beside the embedded one: learned ones, a VLM that grounds, and boxes that were found elsewhere."""
