"""The models: tensors in, tensors out.

They know nothing of devices, files, precision policy or distributed code.
"""
