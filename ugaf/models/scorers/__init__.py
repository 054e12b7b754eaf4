"""Scorers: how good a finished pair is, by measurement or by EditScore."""
