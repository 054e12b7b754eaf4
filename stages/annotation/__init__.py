"""Annotation: boxes, edit instructions, and the screening of both (FineEdit section 4.1)."""
