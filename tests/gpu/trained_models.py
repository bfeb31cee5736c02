"""The models that are compared on two devices: how each is set up, what it is given, its loss.

Everything random is made on the CPU and given, since a GPU's generators make other numbers.
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from dalle_cli.data.clip_tokenizer import frame, own_clip_tokenizer
from dalle_cli.data.tokenizer import Tokenizer
from dalle_cli.loading import build_clip, build_embedding_codec, trained_clip_table
from dalle_cli.losses import contrastive_loss, kl_to_uniform, logit_laplace_nll
from dalle_cli.models.diffusion.hybrid_loss import hybrid_loss
from dalle_cli.models.diffusion.noise_schedules import noise_schedule
from dalle_cli.models.diffusion.noising import add_noise
from dalle_cli.models.dvae import map_pixels, relax
from dalle_cli.models.unclip.autoregressive_prior import code_loss
from dalle_cli.models.unclip.caption_encoders import CaptionInputs
from dalle_cli.models.unclip.diffusion_prior import prior_loss
from dalle_cli.recipe import load_recipe
from dalle_cli.runtime.distributed import World, single_process
from dalle_cli.runtime.precision import Precision
from dalle_cli.schedules import fix_schedules
from dalle_cli.scoring.clip_scorer import ClipScorer
from dalle_cli.training.engines.choice import choose_engine, make_engine
from dalle_cli.training.engines.engine import Engine
from dalle_cli.training.optimization.gradient_scaling import GradientScales
from dalle_cli.training.tasks.model_setup import set_up_clip, set_up_dvae, set_up_transformer
from dalle_cli.training.tasks.unclip.fitted_codec import codec_table
from dalle_cli.training.tasks.unclip.setups import (
    autoregressive_prior_setup,
    decoder_setup,
    prior_setup,
)

DEVICE = os.environ.get("GPU_TESTS_DEVICE", "cuda")  # cpu: the CPU stands in, with tiny models
SIZE = "tiny" if DEVICE == "cpu" else "demo"
BATCH = 8
KINDS = ("dvae", "transformer", "clip", "prior", "prior-autoregressive", "decoder")

Outputs = list[Tensor]
Given = tuple[Any, ...]


@dataclass(frozen=True)
class Trained:
    """A model in its engine, with the recipe, and a batch on its device."""

    kind: str
    recipe: Any
    engine: Engine[Any]
    given: Given

    def compute(self) -> tuple[Outputs, Tensor]:
        """Return outputs and loss of the batch."""
        return RUNS[self.kind](self.engine.module, self.recipe, *self.given)

    def gradients(self) -> Outputs:
        return [p.grad for p in self.engine.module.parameters() if p.grad is not None]


def build(
    kind: str,
    precision: Precision,
    device: torch.device,
    world: World | None = None,
    *,
    changes: Sequence[str] = (),
) -> Trained:
    """Set a model up on a device, with the same weights and batch on any.

    world    processes that train together; None: this one alone
    changes  of the recipe
    """
    recipe, own = recipe_of(kind, changes), world or single_process(device)
    model, scales = SETUPS[kind](recipe, precision, own)
    fill_zeros(model)
    engine = make_engine(
        choose_engine(recipe, own.size, None),
        recipe,
        model=model,
        world=own,
        scales=scales,
        powersgd=getattr(recipe, "powersgd", None),
    )

    torch.manual_seed(7)
    batch = BATCHES[kind](recipe)
    given = tree_map_only(Tensor, lambda tensor: tensor.to(device), batch)
    return Trained(kind, recipe, engine, given)


def recipe_of(kind: str, changes: Sequence[str] = ()) -> Any:
    """Load the recipe that is trained here; the autoregressive prior has no larger one."""
    name = f"{kind}/{'tiny' if kind == 'prior-autoregressive' else SIZE}"
    given = ["optimizer.warmup_steps=1", *changes]
    return fix_schedules(load_recipe(name, given, kind=kind.partition("-")[0]))


def fill_zeros(model: nn.Module) -> None:
    """Make parameters random that begin as zeros: they hide what is behind them."""
    generator = torch.Generator().manual_seed(6)
    for parameter in model.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.1, generator=generator)


SetUp = tuple[nn.Module, GradientScales | None]


def dvae_on(recipe: Any, precision: Precision, world: World) -> SetUp:
    return set_up_dvae(recipe, precision=precision, device=world.device)


def transformer_on(recipe: Any, precision: Precision, world: World) -> SetUp:
    return set_up_transformer(recipe, recipe.tokenizer.vocab_size, precision=precision, world=world)


def clip_on(recipe: Any, precision: Precision, world: World) -> SetUp:
    table = trained_clip_table(recipe.model, recipe.tokenizer.vocab_size)
    device = world.device
    return set_up_clip(table, recipe.training.seed, precision=precision, device=device), None


def prior_on(recipe: Any, precision: Precision, world: World) -> SetUp:
    setup = prior_setup(recipe, precision=precision, world=world, scorer=scorer_on(world))
    return setup.model, setup.scales


def code_prior_on(recipe: Any, precision: Precision, world: World) -> SetUp:
    codec = build_embedding_codec(codec_table(recipe.model))
    setup = autoregressive_prior_setup(
        recipe, precision=precision, world=world, scorer=scorer_on(world), codec=codec
    )
    return setup.model, setup.scales


def decoder_on(recipe: Any, precision: Precision, world: World) -> SetUp:
    setup = decoder_setup(recipe, precision=precision, world=world, scorer=scorer_on(world))
    return setup.model, setup.scales


def scorer_on(world: World) -> ClipScorer:
    """Return a CLIP as setups want one; the losses here don't ask it anything."""
    tokenizer = own_clip_tokenizer(Tokenizer([("r", "i"), ("ri", "n")], "tokenizers"))
    table = trained_clip_table(recipe_of("clip").model, tokenizer.vocab_size - 2)
    return ClipScorer(build_clip(table).to(world.device), tokenizer, world.device)


def dvae_batch(recipe: Any) -> Given:
    table = recipe.model
    side = table.image_size // 2 ** (table.n_groups - 1)
    uniform = torch.rand(BATCH, table.vocab_size, side, side).clamp(min=1e-30)
    return torch.rand(BATCH, 3, table.image_size, table.image_size), -(-uniform.log()).log()


def transformer_batch(recipe: Any) -> Given:
    table = recipe.model
    text = torch.randint(recipe.tokenizer.vocab_size, (BATCH, table.text_len))
    text[:, -2:] = text[0, 3:] = -1
    return text, torch.randint(table.image_vocab_size, (BATCH, table.grid_size**2))


def clip_batch(recipe: Any) -> Given:
    table, n_words = recipe.model, recipe.tokenizer.vocab_size
    rows = [
        frame(
            torch.randint(n_words, (length,)).tolist(),
            start_of_text=n_words,
            end_of_text=n_words + 1,
            text_len=table.text_len,
        )
        for length in range(1, BATCH + 1)
    ]
    pixels = torch.rand(BATCH, 3, table.image_size, table.image_size)
    return pixels, torch.from_numpy(np.stack(rows))


def prior_batch(recipe: Any) -> Given:
    width, n_steps = recipe.model.d_embed, recipe.model.diffusion.n_steps
    images, texts, noise = torch.randn(3, BATCH, width).unbind()
    index = torch.randint(n_steps, (BATCH,)).tolist()
    return images, texts, noise, index, captions_of(recipe)


def code_prior_batch(recipe: Any) -> Given:
    table = recipe.model
    codes = torch.randint(table.n_buckets, (BATCH, table.n_components))
    cosines = torch.randint(table.n_buckets, (BATCH,))
    return codes, cosines, torch.randn(BATCH, table.d_embed), captions_of(recipe)


def decoder_batch(recipe: Any) -> Given:
    table = recipe.model
    images, noise = torch.randn(2, BATCH, 3, table.image_size, table.image_size)
    index = torch.randint(table.diffusion.n_steps, (BATCH,)).tolist()
    return images.tanh(), noise, index, torch.randn(BATCH, table.d_embed), captions_of(recipe)


def captions_of(recipe: Any) -> CaptionInputs:
    """Return captions of different lengths, as states of a CLIP or as tokens."""
    table = recipe.model
    is_given = torch.arange(table.text_len) < torch.arange(1, BATCH + 1)[:, None]
    if getattr(table, "text_vocab_size", None) is not None:
        return CaptionInputs(
            torch.randint(table.text_vocab_size, (BATCH, table.text_len)), is_given
        )
    return CaptionInputs(torch.randn(BATCH, table.text_len, table.d_text), is_given)


def run_dvae(model: Any, recipe: Any, images: Tensor, gumbel: Tensor) -> tuple[Outputs, Tensor]:
    logits = model.codebook_logits(images)
    mu, log_scale = model.decode_soft(relax(logits, 1.0, gumbel))
    nll = logit_laplace_nll(map_pixels(images), mu, log_scale.clamp(min=-1.0))
    loss = (nll.sum() + kl_to_uniform(logits).sum()) / images.numel()
    return [logits, mu, log_scale], loss


def run_transformer(model: Any, recipe: Any, text: Tensor, image: Tensor) -> tuple[Outputs, Tensor]:
    with torch.no_grad():
        features = model.features(text, image)
    text_loss, image_loss, _ = model(text, image)
    return [*features], text_loss / text.numel() + image_loss / image.numel()


def run_clip(model: Any, recipe: Any, pixels: Tensor, text: Tensor) -> tuple[Outputs, Tensor]:
    images = F.normalize(model.encode_image(model.normalise(pixels)), dim=1)
    texts = F.normalize(model.encode_text(text), dim=1)
    return [images, texts], contrastive_loss(model.logit_scale.exp() * images @ texts.T)


def run_prior(
    model: Any,
    recipe: Any,
    images: Tensor,
    texts: Tensor,
    noise: Tensor,
    index: list[int],
    captions: CaptionInputs,
) -> tuple[Outputs, Tensor]:
    table = recipe.model.diffusion
    losses = prior_loss(
        model,
        noise_schedule(table.schedule, table.n_steps),
        images,
        captions=captions,
        text_embeddings=texts,
        is_dropped=none_dropped(texts),
        noise=noise,
        index=torch.tensor(index),
    )
    with torch.no_grad():
        steps = torch.tensor(index, device=noise.device)
        output = model(noise, steps, captions, texts, none_dropped(texts))
    return [output], losses.mean()


def run_code_prior(
    model: Any, recipe: Any, codes: Tensor, cosines: Tensor, texts: Tensor, captions: CaptionInputs
) -> tuple[Outputs, Tensor]:
    logits = model(codes, cosines, captions, texts, none_dropped(texts))
    return [logits], code_loss(logits, codes).mean()


def run_decoder(
    model: Any,
    recipe: Any,
    images: Tensor,
    noise: Tensor,
    index: list[int],
    embeddings: Tensor,
    captions: CaptionInputs,
) -> tuple[Outputs, Tensor]:
    table, at = recipe.model.diffusion, torch.tensor(index)
    schedule = noise_schedule(table.schedule, table.n_steps)
    noisy = add_noise(schedule, images, noise=noise, index=at)
    steps = schedule.timesteps[at].to(noisy.device)

    none = none_dropped(embeddings)
    output = model(noisy, steps, embeddings, captions, none, none)
    errors, bounds = hybrid_loss(schedule, output, clean=images, noise=noise, noisy=noisy, index=at)
    return [output], errors.mean() + bounds.mean()


def none_dropped(rows: Tensor) -> Tensor:
    return torch.zeros(len(rows), dtype=torch.bool, device=rows.device)


SETUPS: dict[str, Callable[[Any, Precision, World], SetUp]] = {
    "dvae": dvae_on,
    "transformer": transformer_on,
    "clip": clip_on,
    "prior": prior_on,
    "prior-autoregressive": code_prior_on,
    "decoder": decoder_on,
}
BATCHES: dict[str, Callable[[Any], Given]] = {
    "dvae": dvae_batch,
    "transformer": transformer_batch,
    "clip": clip_batch,
    "prior": prior_batch,
    "prior-autoregressive": code_prior_batch,
    "decoder": decoder_batch,
}
RUNS: dict[str, Callable[..., tuple[Outputs, Tensor]]] = {
    "dvae": run_dvae,
    "transformer": run_transformer,
    "clip": run_clip,
    "prior": run_prior,
    "prior-autoregressive": run_code_prior,
    "decoder": run_decoder,
}
