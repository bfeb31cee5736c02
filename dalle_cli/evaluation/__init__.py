"""How good a model is: held-out figures, and distances between generated pictures and real ones."""
