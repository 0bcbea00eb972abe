"""Metrics as pure functions over boxes, and their summary."""
