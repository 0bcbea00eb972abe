"""General helper functions, independent of detection except for box geometry."""
