"""The detector: backbone and FPN, RPN, RoI heads, losses, the model folder."""
