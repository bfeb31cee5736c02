"""Training: one loop for every model, its tasks and engines, checkpoints and logs."""
