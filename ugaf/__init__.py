"""ugaf: a distributed data engine that turns photographs into training sets of image edits."""

__version__ = "0.1.0"
