"""`dalle serve`."""
