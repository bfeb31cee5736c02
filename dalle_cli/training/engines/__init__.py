"""training/engines."""
