"""Counts the floating-point operations (FLOPs) of a transformer's arithmetic.

Of attention, only the pairs that its masks allow are counted. A multiplication and an addition
count as two. Norms, activations and the softmax are left out, as is usual.
"""

import torch

from dalle_cli.config import TrainedTransformerTable
from dalle_cli.models.attention_masks import Kind, image_mask, layer_kinds


def forward_flops(model: TrainedTransformerTable) -> int:
    """Count the operations that predict one sample, a caption and an image, padding included."""
    image_len = model.grid_size**2
    n_slots = model.text_len + image_len
    kinds = layer_kinds(model.n_layers)

    # four matrices in attention, and two that are four times as large
    matrices = 12 * model.d_model**2 * model.n_layers
    heads = model.text_len * model.text_vocab_size + image_len * model.image_vocab_size
    pairs = {kind: allowed_pairs(kind, model) for kind in set(kinds)}
    attention = 2 * sum(pairs[kind] for kind in kinds)  # query by key, weight by value
    return 2 * (matrices * n_slots + model.d_model * (heads + attention))


def train_flops(model: TrainedTransformerTable) -> int:
    """Count the operations of an update for one sample.

    Backward takes twice those of forward; recomputation is not counted.
    """
    return 3 * forward_flops(model)


def allowed_pairs(kind: Kind, model: TrainedTransformerTable) -> int:
    """Count the pairs of slots of which one may attend to the other, in a layer of a kind."""
    with torch.device("cpu"):
        among_image = int(image_mask(kind, model.grid_size, kernel_size=model.kernel_size).sum())
    among_text = model.text_len * (model.text_len + 1) // 2
    return among_text + model.grid_size**2 * model.text_len + among_image
