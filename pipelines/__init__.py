"""Pipelines: the YAML files that a user runs."""
