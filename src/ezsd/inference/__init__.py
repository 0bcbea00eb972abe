"""Inference with a trained detector: inputs, batching, drawing."""
