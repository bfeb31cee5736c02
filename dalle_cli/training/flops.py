"""How many floating-point operations a transformer's arithmetic takes: only pairs that its masks allow are counted.

A multiplication and an addition count two. Norms, activations and the softmax are left out, as is usual.
"""

import torch

from dalle_cli.config import TrainedTransformerTable
from dalle_cli.models.attention_masks import Kind, image_mask, layer_kinds


def forward_flops(model: TrainedTransformerTable) -> int:
    """Count those of one stream's predictions: caption and picture, padding included."""
    image_len = model.grid_size**2
    n_slots = model.text_len + image_len
    kinds = layer_kinds(model.n_layers)
    matrices = (
        12 * model.d_model**2 * model.n_layers
    )  # four in attention, and two of four times the size
    heads = model.text_len * model.text_vocab_size + image_len * model.image_vocab_size
    pairs = {kind: allowed_pairs(kind, model) for kind in set(kinds)}
    attention = 2 * sum(pairs[kind] for kind in kinds)  # query by key, weight by value
    return 2 * (matrices * n_slots + model.d_model * (heads + attention))


def train_flops(model: TrainedTransformerTable) -> int:
    """Count those of one stream's update: backward takes twice those of forward; recomputation is not counted."""
    return 3 * forward_flops(model)


def allowed_pairs(kind: Kind, model: TrainedTransformerTable) -> int:
    """Count which slots may see which, of one kind of layer."""
    with torch.device("cpu"):
        among_image = int(image_mask(kind, model.grid_size, kernel_size=model.kernel_size).sum())
    return (
        model.text_len * (model.text_len + 1) // 2
        + model.grid_size**2 * model.text_len
        + among_image
    )
