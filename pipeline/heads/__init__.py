"""Name to a head, and the calibration of its probabilities."""
