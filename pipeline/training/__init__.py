"""Choose settings, fit, keep fits, compare, probe; the lecture."""
