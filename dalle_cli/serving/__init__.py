"""A page to try a model on: what browsers ask for becomes pictures."""
