"""One reader for each annotation format."""
