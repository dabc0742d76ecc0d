"""Logistic regression by Newton steps for many problems at once."""
