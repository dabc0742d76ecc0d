"""Decoding: from file bytes to upright RGB of the requested size, and augmented views."""
