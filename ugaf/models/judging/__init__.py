"""Asking a model to judge: questions about a pair, and what its answers are worth."""
