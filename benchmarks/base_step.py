"""Training step of `transformer/base`, loss and backward, from pictures or from image tokens.

With pictures, the step includes their encoding by OpenAI's dVAE.

Usage: base_step.py pictures|tokens fp32|bf16
"""

import sys

import torch
from measuring import measure

from dalle_cli.data.loader import Batch
from dalle_cli.loading import build_dvae
from dalle_cli.recipe import load_recipe
from dalle_cli.runtime.devices import open_device
from dalle_cli.runtime.precision import Precision, apply_precision
from dalle_cli.training.attention_backend import choose_attention_backend, set_attention_backend
from dalle_cli.training.tasks.fused_losses import build_fused_transformer
from dalle_cli.training.tasks.transformer import TransformerTask

BATCH_SIZE = 1


def main(what: str, precision: Precision) -> None:
    """Time steps on one batch of random pixels or random tokens, with full captions."""
    torch.manual_seed(0)
    device, _ = open_device("cpu", precision)

    recipe = load_recipe("transformer/base", [])
    model = recipe.model
    transformer = build_fused_transformer(model, recipe.tokenizer.vocab_size, precision)
    backend = choose_attention_backend("auto", transformer, device)
    set_attention_backend(backend, transformer, device=device)
    dvae = build_dvae(load_recipe("dvae/openai", []).model).to(memory_format=torch.channels_last)
    for module in (transformer, dvae):
        apply_precision(module, precision, device)

    batch = Batch(
        images=torch.rand(BATCH_SIZE, 3, dvae.image_size, dvae.image_size),
        image_tokens=torch.randint(dvae.vocab_size, (BATCH_SIZE, dvae.grid_size**2))
        if what == "tokens"
        else None,
        positions=list(range(BATCH_SIZE)),
        text_tokens=torch.randint(recipe.tokenizer.vocab_size, (BATCH_SIZE, model.text_len)),
        captions=[""] * BATCH_SIZE,
        global_size=BATCH_SIZE,
        global_text_tokens=BATCH_SIZE * model.text_len,
        are_cut=[False] * BATCH_SIZE,
    )
    task = TransformerTask(transformer, dvae, recipe.loss, recipe.training.seed)

    def step() -> None:
        transformer.zero_grad(set_to_none=True)
        loss, _ = task.loss(batch, step=0)
        loss.backward()

    measure(step)


if __name__ == "__main__":
    main(*sys.argv[1:])
