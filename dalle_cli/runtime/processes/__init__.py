"""Several processes: started together, told which they are, and named where they are late."""
