"""A pass on a cluster, with parts as tasks."""
