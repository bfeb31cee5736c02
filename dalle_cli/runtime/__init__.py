"""Where arithmetic runs, in training and inference: devices, precision, processes, compilation."""
