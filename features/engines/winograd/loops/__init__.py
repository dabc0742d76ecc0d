"""The compiled loops of the Winograd engine, one kind per file."""
