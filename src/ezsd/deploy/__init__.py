"""A trained detector leaves the training machine: ONNX files, model hubs."""
