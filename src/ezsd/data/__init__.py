"""Images, boxes and category names, and the filter that hides novel boxes from training."""
