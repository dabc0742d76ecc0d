"""Logistic regression: many problems solved at once by Newton's method."""
