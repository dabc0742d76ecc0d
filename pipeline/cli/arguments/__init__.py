"""What the command line takes: its commands, their arguments, and how both are read."""
