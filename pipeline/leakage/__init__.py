"""How far a test set can be trusted: near-copies of its images in training, series, and how optimistic its split is."""
