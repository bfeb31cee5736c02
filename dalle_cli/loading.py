"""From a run, an exported folder or a public CLIP to a module ready for inference; nothing is run that lies there."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TypeVar

import torch
from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import nn

from dalle_cli.config import (
    ClipModelTable,
    DVAEModelTable,
    TrainedClipTable,
    TrainedTransformerTable,
    TransformerModelTable,
)
from dalle_cli.data.tokenizer import Tokenizer
from dalle_cli.errors import DalleError
from dalle_cli.models.clip import PIXEL_MEAN, PIXEL_STD, Clip, Tower
from dalle_cli.models.dvae import DiscreteVAE
from dalle_cli.models.transformer import Transformer
from dalle_cli.run_dir import CONFIG, WEIGHTS, RunDir, dvae_model_dir, model_dir

Module = TypeVar("Module", bound=nn.Module)

N_SPECIALS = 2  # start and end of text, which CLIP has beside a tokenizer's ids


ModelTable = DVAEModelTable | TrainedTransformerTable | TrainedClipTable
MODEL_TABLES: dict[str, type[DVAEModelTable] | type[TrainedTransformerTable] | type[TrainedClipTable]] = {
    "dvae": DVAEModelTable,
    "transformer": TrainedTransformerTable,
    "clip": TrainedClipTable,
}


def build_dvae(model: DVAEModelTable) -> DiscreteVAE:
    """Make a discrete VAE with fresh weights."""
    return DiscreteVAE(**model.model_dump())


def build_transformer(model: TransformerModelTable, text_vocab_size: int) -> Transformer:
    """Make a transformer with fresh weights, for as many text tokens as were learnt."""
    return Transformer(**{**model.model_dump(), "text_vocab_size": text_vocab_size})


def trained_clip_table(model: ClipModelTable, text_vocab_size: int) -> TrainedClipTable:
    """Describe a CLIP of ours, that reads captions between a start and an end after so many text tokens."""
    return TrainedClipTable(
        **model.model_dump(),
        text_vocab_size=text_vocab_size + N_SPECIALS,
        end_of_text=None,
        pixel_mean=list(PIXEL_MEAN),
        pixel_std=list(PIXEL_STD),
    )


def build_clip(model: TrainedClipTable) -> Clip:
    """Make a CLIP with fresh weights."""
    sizes = model.model_dump()
    return Clip(**{**sizes, "vision": Tower(**sizes["vision"]), "text": Tower(**sizes["text"])})


def load_dvae(path: Path | str) -> DiscreteVAE:
    """Load the discrete VAE of a dVAE run or a model folder, or a transformer run's own copy.

    Raises DalleError where there is none or it is damaged.
    """
    folder = dvae_model_dir(Path(path))
    model = read_model_table(folder)
    if not isinstance(model, DVAEModelTable):
        raise DalleError(f"{path} holds a {kind_of(model)}, not a dvae")
    return _load(partial(build_dvae, model), folder)


def load_transformer(path: Path | str) -> Transformer:
    """Load the transformer of a run, or of a model folder; raises DalleError likewise."""
    folder = model_dir(Path(path))
    model = read_model_table(folder)
    if not isinstance(model, TrainedTransformerTable):
        raise DalleError(f"{path} holds a {kind_of(model)}, not a transformer")
    return _load(partial(build_transformer, model, model.text_vocab_size), folder)


def load_tokenizer(run: RunDir) -> Tokenizer:
    """Load a run's own copy of its tokenizer."""
    return Tokenizer.load(run.tokenizer)


def kind_of(model: ModelTable) -> str:
    """Name the kind of model that a table describes."""
    return next(kind for kind, table in MODEL_TABLES.items() if type(model) is table)


def read_model_table(path: Path) -> ModelTable:
    """Read the sizes of the model of a run, or of a model folder; raises DalleError where there is none."""
    config = model_dir(path) / CONFIG
    try:
        description = json.loads(config.read_text("utf-8"))
        return MODEL_TABLES[str(description["kind"])].model_validate(description["model"])
    except ValidationError as error:
        first = error.errors()[0]
        raise DalleError(f"{config} is damaged: `{'.'.join(map(str, first['loc']))}`: {first['msg']}") from error
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise DalleError(f"{config} is not a model's config: {error}") from error


def _load(build: Callable[[], Module], folder: Path) -> Module:
    """Build a module and fill it, ready for inference.

    The sizes are compared first, so that a config that does not describe the weights allocates nothing.
    """
    path = folder / WEIGHTS
    try:
        with torch.device("meta"):
            expected = {name: list(tensor.shape) for name, tensor in build().state_dict().items()}
        with safe_open(path, "pt") as file:
            found = {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118  no mapping
        misfits = sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))
        if misfits:
            raise DalleError(
                f"{path} does not hold this model's weights: "
                f"{len(misfits)} tensors are not as {CONFIG} says, {misfits[0]} first"
            )
        module = build()
        module.load_state_dict(load_file(path))
    except (OSError, SafetensorError, RuntimeError, ValueError) as error:
        raise DalleError(f"{path} does not hold this model's weights: {error}") from error
    return module.eval().requires_grad_(False)
