"""Labels: how many more would help, which images to label next, and corrected ones."""
