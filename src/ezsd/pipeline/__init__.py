"""The four stages of a run, and the code that runs them in order."""
