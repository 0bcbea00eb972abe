"""The training loop, and the datasets and samplers it uses."""
