"""Generation: the edits themselves (FineEdit section 4.3, FireRed's template synthesis)."""
