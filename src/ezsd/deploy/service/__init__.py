"""The HTTP service of a detector, and its page for people. Needs the extra ``serve``."""
