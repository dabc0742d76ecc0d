"""What runs a base: one file per engine, and the choice among them."""
