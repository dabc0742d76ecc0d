"""Fits of one head on one split: the fit, its result, its cache, and out-of-fold probabilities."""
