"""The detector: backbone with FPN, RPN, RoI heads, losses, model folder."""
