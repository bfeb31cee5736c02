"""Files on disk: their names, atomic writes, job folders, model folders and lazily read tensors."""
