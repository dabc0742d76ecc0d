"""Analyses in the report beyond a run's own results."""
