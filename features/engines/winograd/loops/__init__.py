"""The loops that the Winograd engine compiles, one kind a file."""
