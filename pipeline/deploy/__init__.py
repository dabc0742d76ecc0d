"""Prediction and export with a trained head."""
