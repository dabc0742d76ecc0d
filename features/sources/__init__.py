"""Where labelled images come from, in one fixed order."""
