"""Pictures and captions: how they are stored, ordered for a run, and turned into tensors."""
