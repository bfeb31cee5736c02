"""The three models: tensors in, tensors out. No devices, no files, no precision policy, no distributed code."""
