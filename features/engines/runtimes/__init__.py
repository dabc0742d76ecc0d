"""Engines that hand a base to the runtime of another project."""
