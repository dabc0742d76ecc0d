"""Sources of labelled images, in one fixed order."""
