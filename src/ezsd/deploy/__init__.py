"""A trained detector leaves the training machine: ONNX files, an HTTP service."""
