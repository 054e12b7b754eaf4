"""Screeners: which edits are not worth making, by rules, by faces, by a language model."""
