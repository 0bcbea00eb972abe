"""One HTML page from a run folder, and the comparison of runs."""
