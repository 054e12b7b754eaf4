"""Detectors: the embedded one (`proposals`), learned ones, a VLM that grounds, and boxes that were found elsewhere."""
