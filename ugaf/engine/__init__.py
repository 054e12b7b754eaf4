"""What runs a pipeline: the plan, workers on Ray or in this process, and what they do when something fails."""
