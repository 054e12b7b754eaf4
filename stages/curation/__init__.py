"""Curation: which photographs are worth editing (FineEdit section 4.1, FireRed section 2.2.2)."""
