"""Training step of the demo's decoder of DALL-E 2, loss and backward, as in `dalle train-decoder`.

32 pictures of 32 px with captions; what the frozen CLIP makes of them is a part of the step.

Usage: decoder_training_step.py fp32|bf16
"""

import sys

import torch
from measuring import count_flops, measure

from dalle_cli.data.loader import Batch
from dalle_cli.loading import build_clip, build_decoder, trained_clip_table
from dalle_cli.recipe import load_recipe
from dalle_cli.runtime.devices import open_device
from dalle_cli.runtime.precision import Precision, apply_precision
from dalle_cli.training.tasks.unclip.clip_pairs import PairEncoder
from dalle_cli.training.tasks.unclip.decoder import UnclipDecoderTask

BATCH_SIZE = 32


def main(precision: Precision) -> None:
    """Time steps on one batch of random pixels and tokens."""
    torch.manual_seed(0)
    device, _ = open_device("cpu", precision)

    recipe, clip_recipe = load_recipe("decoder/demo", []), load_recipe("clip/demo", [])
    clip_table = trained_clip_table(clip_recipe.model, clip_recipe.tokenizer.vocab_size)
    clip = build_clip(clip_table).eval().requires_grad_(False)
    decoder = build_decoder(recipe.model).to(memory_format=torch.channels_last)
    apply_precision(decoder, precision, device)
    encode = PairEncoder(clip, reads_tokens=False)
    task = UnclipDecoderTask(decoder, encode, recipe.model, recipe.loss, seed=0)

    side, text_len = recipe.model.image_size, clip_recipe.model.text_len
    batch = Batch(
        images=torch.rand(BATCH_SIZE, 3, side, side),
        image_tokens=None,
        positions=list(range(BATCH_SIZE)),
        text_tokens=torch.randint(1, clip_table.text_vocab_size, (BATCH_SIZE, text_len)),
        captions=[""] * BATCH_SIZE,
        global_size=BATCH_SIZE,
        global_text_tokens=0,
        are_cut=[False] * BATCH_SIZE,
    )

    def step() -> None:
        decoder.zero_grad(set_to_none=True)
        loss, _ = task.loss(batch, step=0)
        loss.backward()

    measure(step, count_flops(step))


if __name__ == "__main__":
    main(*sys.argv[1:])
