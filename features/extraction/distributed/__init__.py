"""The parts of a pass as tasks of a cluster."""
