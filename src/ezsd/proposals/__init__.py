"""Where unlabelled novel objects may be: candidate boxes, their scores, the choice."""
