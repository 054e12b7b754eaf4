"""Refinement: four sequential checks that a pair must pass (FineEdit section 4.1)."""
