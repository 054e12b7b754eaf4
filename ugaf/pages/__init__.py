"""What the report and the tune page are both made of: markup, charts, thumbnails, distributions, cells, one style."""
