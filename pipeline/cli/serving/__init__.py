"""A page and an HTTP interface to a trained head."""
