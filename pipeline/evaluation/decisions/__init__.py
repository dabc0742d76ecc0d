"""Decisions between classes: the figures of each class, and the operating point of a classifier of two classes."""
