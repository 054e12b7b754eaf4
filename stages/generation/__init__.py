"""Generation: the edits themselves (FineEdit section 4.1, FireRed's template synthesis)."""
