"""The four stages, and how a run goes through them."""
