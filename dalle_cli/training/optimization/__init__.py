"""training/optimization."""
