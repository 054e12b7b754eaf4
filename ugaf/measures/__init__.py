"""The formulas: what is measured on a photograph, and on the two pictures of a pair. Arrays in, numbers out."""
