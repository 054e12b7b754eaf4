"""What files declare of their origin: metadata, content credentials, generators, watermarks."""
