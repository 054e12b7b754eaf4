"""A run's folder: the columns in it, what they say of each row, and the record of what made them."""
