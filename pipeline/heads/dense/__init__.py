"""Dense heads, several of them trained at once."""
