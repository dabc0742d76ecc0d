"""Saving and loading trained heads and their results."""
