"""Proposals for unlabeled novel objects: candidate boxes, scoring and selection."""
