"""Use a trained detector: inputs, batching, drawing."""
