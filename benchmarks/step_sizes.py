"""Sizes of the timed training step, the same for ours and for dalle-pytorch's.

Layers: row, column, row, row, row, column, row, convolutional. Captions fill all text slots.
"""

BATCH_SIZE = 4
TEXT_LEN = 256
GRID_SIZE = 32
TEXT_VOCAB_SIZE = 16_384
IMAGE_VOCAB_SIZE = 8_192
N_LAYERS = 8
D_MODEL = 256
N_HEADS = 4
KERNEL_SIZE = 11
