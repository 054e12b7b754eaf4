"""Screeners: which edits are not worth making, by the rules of the stage (faces among them) and by a language model."""
