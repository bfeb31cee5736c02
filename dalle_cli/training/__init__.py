"""One loop for every model, and what goes around it: engines, optimizer, schedules, checkpoints, logs."""
