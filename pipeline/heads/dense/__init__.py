"""Dense heads: many of them trained in one step."""
