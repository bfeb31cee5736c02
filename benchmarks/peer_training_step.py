"""The same training step of dalle-pytorch; `make bench-peer` installs it.

Widths, layers and heads are the same. It differs in a GEGLU perceptron (half as many weights again
as the paper's), rotary positions, shifted tokens, a kernel of 5, and one head over both
vocabularies.

Usage: peer_training_step.py fp32|bf16 highest|medium

The last word is torch's route for fp32 matrices.
"""

import sys
import types
import warnings
from contextlib import nullcontext

import torch
from measuring import measure
from step_sizes import (
    BATCH_SIZE,
    D_MODEL,
    GRID_SIZE,
    IMAGE_VOCAB_SIZE,
    N_HEADS,
    N_LAYERS,
    TEXT_LEN,
    TEXT_VOCAB_SIZE,
)

KINDS = (
    "axial_row",
    "axial_col",
    "axial_row",
    "axial_row",
    "axial_row",
    "axial_col",
    "axial_row",
    "conv_like",
)
N_HALVINGS = 3  # from pixels to the grid


def main(precision: str, route: str) -> None:
    """Time steps on one batch of random tokens."""
    torch.manual_seed(0)
    torch.set_float32_matmul_precision(route)
    dalle = build(TEXT_LEN, KINDS)
    text = torch.randint(1, TEXT_VOCAB_SIZE, (BATCH_SIZE, TEXT_LEN))  # 0 is padding
    image = torch.randint(IMAGE_VOCAB_SIZE, (BATCH_SIZE, GRID_SIZE**2))

    def step() -> None:
        dalle.zero_grad(set_to_none=True)
        with torch.autocast("cpu", torch.bfloat16) if precision == "bf16" else nullcontext():
            loss = dalle(text, image, return_loss=True)
        loss.backward()

    measure(step)


def build(text_len: int, kinds: tuple[str, ...], **options: bool) -> torch.nn.Module:
    """Build the peer's DALLE around its smallest dVAE with the grid, which never runs."""
    warnings.filterwarnings("ignore")
    leave_out_taming()
    from dalle_pytorch import DALLE, DiscreteVAE

    dvae = DiscreteVAE(
        image_size=GRID_SIZE * 2**N_HALVINGS, num_layers=N_HALVINGS, num_tokens=IMAGE_VOCAB_SIZE,
        codebook_dim=1, hidden_dim=1,
    )  # fmt: skip
    return DALLE(
        vae=dvae, num_text_tokens=TEXT_VOCAB_SIZE, text_seq_len=text_len,
        depth=N_LAYERS, dim=D_MODEL, heads=N_HEADS, dim_head=D_MODEL // N_HEADS,
        attn_types=kinds, **options,
    )  # fmt: skip


def leave_out_taming() -> None:
    """Stub taming-transformers, which the package imports for a VQGAN that is not needed here."""
    vqgan = types.ModuleType("taming.models.vqgan")
    vqgan.VQModel = vqgan.GumbelVQ = object
    for name in ("taming", "taming.models"):
        sys.modules[name] = types.ModuleType(name)
    sys.modules[vqgan.__name__] = vqgan


if __name__ == "__main__":
    main(*sys.argv[1:])
