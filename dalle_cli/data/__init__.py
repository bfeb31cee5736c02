"""Pictures and captions: where they lie, in which order they come, how they become tensors."""
