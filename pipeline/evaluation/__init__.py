"""Evaluation of heads: metrics, intervals, paired tests, curves."""
