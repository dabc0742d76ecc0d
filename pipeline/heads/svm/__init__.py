"""Support vector machines: the head, its search, and voting over several."""
