"""Which computation of attention a transformer trains with: all the same, but in speed and memory.

Put around the transformer from outside; without it, it computes all pairs under a mask.
"""

from typing import Literal

import torch

from dalle_cli.errors import UsageError
from dalle_cli.models.attention import SHORT
from dalle_cli.models.sparse_attention import SparseAttention
from dalle_cli.models.transformer import Transformer

AttentionBackend = Literal["dense", "sparse", "flex"]
SUPPORT = {"sparse": "cpu", "flex": "cuda"}  # the kind of device that each is for


def choose_attention_backend(
    choice: str, transformer: Transformer, device: torch.device
) -> AttentionBackend:
    """Turn `auto` into what is fast there: dense for short streams. Raises UsageError for what there is not."""
    if choice == "auto":
        is_short = transformer.text_len + transformer.image_len <= SHORT
        return "dense" if is_short else "sparse" if device.type == "cpu" else "flex"
    if choice in SUPPORT and device.type != SUPPORT[choice]:
        message = f"`runtime.attention` {choice} is for {SUPPORT[choice]}, and this trains on {device.type}"
        raise UsageError(message, "`--set runtime.attention=auto`")
    return choice


def set_attention_backend(
    name: AttentionBackend, transformer: Transformer, kernel_size: int, device: torch.device
) -> None:
    """Let the transformer compute its attention so, in place."""
    shape = (transformer.text_len, transformer.grid_size, kernel_size)
    for kind in sorted(set(transformer.kinds)):
        if name == "sparse":
            transformer.attend[kind] = SparseAttention(kind, *shape)
        elif name == "flex":
            from dalle_cli.models.flex_attention import FlexAttention  # seconds of imports

            transformer.attend[kind] = FlexAttention(kind, *shape, device)
