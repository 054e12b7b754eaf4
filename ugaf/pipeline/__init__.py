"""What is to be run, as data: the pipeline file, its settings, its stages with their rules; checked before it runs."""
