"""Setups of DALL-E 2's models, for training with a frozen CLIP: model, task and preprocessing."""

from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

import torch

from dalle_cli.config import (
    AutoregressivePriorRecipe,
    DecoderRecipe,
    ModelTable,
    PriorRecipe,
    UnclipRecipe,
    kind_of,
)
from dalle_cli.data.unclip.preprocessing import UnclipPreprocessing
from dalle_cli.loading import build_autoregressive_prior, build_decoder, build_prior
from dalle_cli.models.unclip.autoregressive_prior import AutoregressivePrior
from dalle_cli.models.unclip.decoder import UnclipDecoder
from dalle_cli.models.unclip.diffusion_prior import DiffusionPrior
from dalle_cli.models.unclip.embedding_codec import EmbeddingCodec
from dalle_cli.runtime.distributed import World
from dalle_cli.runtime.precision import Precision, apply_precision
from dalle_cli.scoring.clip_scorer import ClipScorer
from dalle_cli.training.activation_checkpointing import checkpoint_activations
from dalle_cli.training.optimization.gradient_scaling import GradientScales
from dalle_cli.training.optimization.loss_scaling import scale_loss
from dalle_cli.training.planning.cost import sample_flops
from dalle_cli.training.setup import TrainingSetup
from dalle_cli.training.tasks.task import Task
from dalle_cli.training.tasks.unclip.autoregressive import AutoregressivePriorTask
from dalle_cli.training.tasks.unclip.clip_pairs import PairEncoder
from dalle_cli.training.tasks.unclip.decoder import UnclipDecoderTask
from dalle_cli.training.tasks.unclip.prior import DiffusionPriorTask
from dalle_cli.training.throughput import SampleCost

UnclipModelT = TypeVar("UnclipModelT", DiffusionPrior, AutoregressivePrior, UnclipDecoder)


def prior_setup(
    recipe: PriorRecipe, *, precision: Precision, world: World, scorer: ClipScorer
) -> TrainingSetup[DiffusionPrior]:
    """Build a diffusion prior and its task; the CLIP is on the world's device."""
    model = recipe.model
    prior, scales = _set_up(build_prior, model, recipe, precision=precision, world=world)
    task_on = partial(
        DiffusionPriorTask,
        encode=prior_pairs(recipe, scorer),
        model=model,
        loss=recipe.loss,
        seed=recipe.training.seed,
    )
    return _setup(prior, task_on, model, scales=scales, preprocess=unclip_preprocessing(scorer))


def autoregressive_prior_setup(
    recipe: AutoregressivePriorRecipe,
    *,
    precision: Precision,
    world: World,
    scorer: ClipScorer,
    codec: EmbeddingCodec,
) -> TrainingSetup[AutoregressivePrior]:
    """Build an autoregressive prior and its task; CLIP and codec are on the world's device."""
    model, build = recipe.model, build_autoregressive_prior
    prior, scales = _set_up(build, model, recipe, precision=precision, world=world)
    task_on = partial(
        AutoregressivePriorTask,
        encode=prior_pairs(recipe, scorer),
        codec=codec,
        loss=recipe.loss,
        seed=recipe.training.seed,
    )
    return _setup(prior, task_on, model, scales=scales, preprocess=unclip_preprocessing(scorer))


def decoder_setup(
    recipe: DecoderRecipe, *, precision: Precision, world: World, scorer: ClipScorer
) -> TrainingSetup[UnclipDecoder]:
    """Build a decoder and its task; the CLIP is on the world's device."""
    model = recipe.model
    decoder, scales = _set_up(build_decoder, model, recipe, precision=precision, world=world)
    task_on = partial(
        UnclipDecoderTask,
        encode=PairEncoder(scorer.clip, reads_tokens=model.text is not None),
        model=model,
        loss=recipe.loss,
        seed=recipe.training.seed,
    )
    preprocess = unclip_preprocessing(scorer, image_size=model.image_size)
    return _setup(decoder, task_on, model, scales=scales, preprocess=preprocess)


def prior_pairs(recipe: PriorRecipe | AutoregressivePriorRecipe, scorer: ClipScorer) -> PairEncoder:
    """Return what embeds the pairs of a prior's batches."""
    reads_tokens = recipe.kind == "prior" and recipe.model.text_vocab_size is not None
    return PairEncoder(scorer.clip, reads_tokens=reads_tokens)


def unclip_preprocessing(scorer: ClipScorer, image_size: int | None = None) -> UnclipPreprocessing:
    """Return the preprocessing that goes with a CLIP; image_size: of the decoder's pictures."""
    clip = scorer.clip
    return UnclipPreprocessing(clip.image_size, clip.text_len, scorer.tokenizer, image_size)


def _setup(
    model: UnclipModelT,
    task_on: Callable[[UnclipModelT], Task[UnclipModelT]],
    table: ModelTable,
    *,
    scales: GradientScales | None,
    preprocess: UnclipPreprocessing,
) -> TrainingSetup[UnclipModelT]:
    return TrainingSetup(
        model,
        task_on,
        preprocess=preprocess,
        model_config={"kind": kind_of(table), "model": table.model_dump()},
        scales=scales,
        cost=SampleCost(flops=sample_flops(table)),
    )


def _set_up(
    build: Callable[[Any], UnclipModelT],
    table: ModelTable,
    recipe: UnclipRecipe,
    *,
    precision: Precision,
    world: World,
) -> tuple[UnclipModelT, GradientScales | None]:
    """Build a model on the CPU that will train on the world's device; in fp16 with a loss scale."""
    torch.manual_seed(recipe.training.seed)
    model = build(table)
    if recipe.kind == "decoder":
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # no stub
    apply_precision(model, precision, world.device)
    scales = scale_loss(model, world.device) if precision == "fp16" else None
    if recipe.runtime.activation_checkpointing is True or recipe.runtime.zero_stage == 3:
        checkpoint_activations(model.half_precision_modules())
    return model, scales
