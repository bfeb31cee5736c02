"""Tasks: what each model is trained for, and what it needs to train."""
