"""Support vector machines: the head, its search, and votes of several."""
