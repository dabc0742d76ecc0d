"""What runs a base: one file an engine, and what picks among them."""
