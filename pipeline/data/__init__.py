"""Rows of features for heads, in memory or in blocks."""
