"""What judges of pairs have in common: the pair as they get it, and several questions about each in one call."""
