"""Engines that run a base, one file each, and the choice among them."""
