"""Backbones: from a name to a frozen base with checked weights."""
