"""Other projects' weights, read and renamed to our names."""
