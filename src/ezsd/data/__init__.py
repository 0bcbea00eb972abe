"""Images, boxes and category names: everything the stages learn from, and what they may not see."""
