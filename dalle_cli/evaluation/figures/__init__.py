"""What is measured of a model, from pictures and pairs to numbers."""
