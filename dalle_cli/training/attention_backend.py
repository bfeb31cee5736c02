"""The attention backend that a transformer trains with.

All backends give the same results; they differ in speed and memory. Applied to the transformer from
outside; without a backend, it computes all pairs under a mask.
"""

from collections.abc import Callable
from typing import Literal

import torch

from dalle_cli.errors import UsageError
from dalle_cli.models.attention import SHORT
from dalle_cli.models.sparse_attention import SparseAttention
from dalle_cli.models.transformer import TransformerBackbone
from dalle_cli.runtime.compilation import has_compiler

AttentionBackend = Literal["dense", "sparse", "flex"]
SUPPORT = {"sparse": "cpu", "flex": "cuda"}  # the kind of device that a backend is for


def choose_attention_backend(
    choice: Literal["auto"] | AttentionBackend,
    transformer: TransformerBackbone,
    device: torch.device,
) -> AttentionBackend:
    """Return the choice, or the fastest backend for `auto`: dense for short streams.

    Raises UsageError for a backend that the device does not support.
    """
    if choice == "auto":
        if not _is_long(transformer):
            return "dense"
        if device.type == "cpu":
            return "sparse"
        return "flex" if has_compiler(device) else "dense"

    if choice in SUPPORT and device.type != SUPPORT[choice]:
        needed = f"`runtime.attention` {choice} is for {SUPPORT[choice]}"
        hint = "`--set runtime.attention=auto`"
        raise UsageError(f"{needed}, but this run trains on {device.type}", hint)
    return choice


def _is_long(transformer: TransformerBackbone) -> bool:
    return transformer.text_len + transformer.image_len > SHORT


def warn_of_missing_compiler(
    choice: Literal["auto"] | AttentionBackend,
    transformer: TransformerBackbone,
    *,
    device: torch.device,
    warn: Callable[[str], None],
) -> None:
    """Warn where `auto` means dense attention for want of a compiler: it takes far more memory."""
    is_wanted = choice == "auto" and _is_long(transformer) and device.type == SUPPORT["flex"]
    if is_wanted and not has_compiler(device):
        warn(
            "attention computes all pairs, which is slower and takes more memory: flex attention "
            "needs Triton, a C compiler and Python's headers"
        )


def set_attention_backend(
    backend: AttentionBackend, transformer: TransformerBackbone, *, device: torch.device
) -> None:
    """Set the attention backend of every layer, in place."""
    shape = (transformer.text_len, transformer.grid_size, transformer.kernel_size)
    for kind in sorted(set(transformer.kinds)):
        if backend == "sparse":
            transformer.attend[kind] = SparseAttention(kind, *shape)
        elif backend == "flex":
            from dalle_cli.models.flex_attention import FlexAttention  # seconds of imports

            transformer.attend[kind] = FlexAttention(kind, *shape, device)
