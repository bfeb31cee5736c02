"""Training step of our transformer, as in `dalle train-transformer`, but without optimizer.

Usage: training_step.py fp32|bf16
"""

import sys

import torch
from measuring import measure
from step_sizes import (
    BATCH_SIZE,
    D_MODEL,
    GRID_SIZE,
    IMAGE_VOCAB_SIZE,
    KERNEL_SIZE,
    N_HEADS,
    N_LAYERS,
    TEXT_LEN,
    TEXT_VOCAB_SIZE,
)

from dalle_cli.config import TransformerLossTable, TransformerModelTable
from dalle_cli.data.loader import Batch
from dalle_cli.models.attention_masks import attention_mask
from dalle_cli.models.transformer import TransformerBackbone
from dalle_cli.runtime.devices import open_device
from dalle_cli.runtime.precision import Precision, apply_precision
from dalle_cli.training.attention_backend import choose_attention_backend, set_attention_backend
from dalle_cli.training.tasks.fused_losses import build_fused_transformer
from dalle_cli.training.tasks.transformer import TransformerTask

IMAGE_LEN = GRID_SIZE**2
MODEL = TransformerModelTable(
    text_len=TEXT_LEN, grid_size=GRID_SIZE, image_vocab_size=IMAGE_VOCAB_SIZE,
    n_layers=N_LAYERS, d_model=D_MODEL, n_heads=N_HEADS, kernel_size=KERNEL_SIZE,
)  # fmt: skip


def main(precision: Precision) -> None:
    """Time steps on one batch of random tokens."""
    torch.manual_seed(0)
    device, _ = open_device("cpu", precision)

    transformer = build_fused_transformer(MODEL, TEXT_VOCAB_SIZE, precision)
    for head in (transformer.text_head, transformer.image_head):
        head.reset_parameters()  # random as the peer's: zero heads pass zero gradients back
    backend = choose_attention_backend("auto", transformer, device)
    set_attention_backend(backend, transformer, device=device)
    apply_precision(transformer, precision, device)

    loss = TransformerLossTable(text_weight=1 / 8, caption_dropout=0.0)
    task = TransformerTask(transformer, None, loss, seed=0)  # no dVAE: image tokens are given
    batch = random_batch()
    measure(lambda: step(task, batch), flops_of_step(transformer))


def step(task: TransformerTask, batch: Batch) -> None:
    """Run the step that is timed."""
    task.module.zero_grad(set_to_none=True)
    loss, _ = task.loss(batch, step=0)
    loss.backward()


def random_batch() -> Batch:
    """Build a batch of random tokens, with captions that fill every text slot."""
    return Batch(
        images=torch.empty(BATCH_SIZE, 0),
        image_tokens=torch.randint(IMAGE_VOCAB_SIZE, (BATCH_SIZE, IMAGE_LEN)),
        positions=list(range(BATCH_SIZE)),
        text_tokens=torch.randint(TEXT_VOCAB_SIZE, (BATCH_SIZE, TEXT_LEN)),
        captions=[""] * BATCH_SIZE,
        global_size=BATCH_SIZE,
        global_text_tokens=BATCH_SIZE * TEXT_LEN,
        are_cut=[False] * BATCH_SIZE,
    )


def flops_of_step(transformer: TransformerBackbone) -> int:
    """Count the operations that a step needs: forward, and twice that in backward.

    Attention counts allowed pairs only.
    """
    weights = sum(matrix.numel() for matrix in transformer.matrices())
    heads = (
        TEXT_LEN * transformer.text_head.weight.numel()
        + IMAGE_LEN * transformer.image_head.weight.numel()
    )
    pairs = sum(
        int(attention_mask(kind, TEXT_LEN, grid_size=GRID_SIZE, kernel_size=KERNEL_SIZE).sum())
        for kind in transformer.kinds
    )

    multiplications = (TEXT_LEN + IMAGE_LEN) * weights + heads + 2 * D_MODEL * pairs
    return 3 * BATCH_SIZE * 2 * multiplications


if __name__ == "__main__":
    main(sys.argv[1])
