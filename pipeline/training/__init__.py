"""Training: choose settings, fit, cache fits, compare, probe, and reproduce the lecture."""
