"""Predict and export."""
