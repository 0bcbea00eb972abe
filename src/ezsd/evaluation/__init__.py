"""Metrics as pure functions of boxes, and their summary."""
