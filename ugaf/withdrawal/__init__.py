"""Withdrawing photographs from a run, with all that came of them."""
