"""Heads: the registry of names, the classifiers, and calibration of their probabilities."""
