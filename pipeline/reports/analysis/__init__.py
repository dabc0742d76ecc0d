"""What the page shows beyond a run's own figures."""
