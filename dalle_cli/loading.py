"""From a run or an exported folder to a module ready for inference. Safetensors only: nothing is unpickled."""

import json
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from dalle_cli.config import DVAEModelTable, Table, TransformerModelTable
from dalle_cli.data.tokenizer import Tokenizer
from dalle_cli.errors import DalleError
from dalle_cli.models.dvae import DiscreteVAE
from dalle_cli.models.transformer import Transformer
from dalle_cli.run_dir import CONFIG, WEIGHTS, RunDir, model_dir


class _TransformerConfig(TransformerModelTable):
    text_vocab_size: int


def build_dvae(model: DVAEModelTable) -> DiscreteVAE:
    """Make a discrete VAE with fresh weights."""
    return DiscreteVAE(**model.model_dump())


def build_transformer(model: TransformerModelTable, text_vocab_size: int) -> Transformer:
    """Make a transformer with fresh weights, for as many text tokens as were learnt."""
    return Transformer(**{**model.model_dump(), "text_vocab_size": text_vocab_size})


def load_dvae(path: Path | str) -> DiscreteVAE:
    """Load the discrete VAE of a dVAE run or a model folder, or a transformer run's own copy.

    Raises DalleError where there is none or it is damaged.
    """
    own_copy = RunDir(Path(path)).dvae
    folder, config = _read_config(own_copy if own_copy.is_dir() else Path(path), "dvae")
    return _load_weights(build_dvae(_typed(DVAEModelTable, config, folder)), folder)


def load_transformer(path: Path | str) -> Transformer:
    """Load the transformer of a run, or of a model folder; raises DalleError likewise."""
    folder, config = _read_config(Path(path), "transformer")
    model = _typed(_TransformerConfig, config, folder)
    return _load_weights(build_transformer(model, model.text_vocab_size), folder)


def load_tokenizer(run: RunDir) -> Tokenizer:
    """Load a run's own copy of its tokenizer."""
    return Tokenizer.load(run.tokenizer)


def _read_config(path: Path, kind: str) -> tuple[Path, dict[str, Any]]:
    """Find a model folder and read its config, whose kind must be the one asked for."""
    folder = model_dir(path)
    try:
        config = json.loads((folder / CONFIG).read_text("utf-8"))
        found, model = config["kind"], config["model"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DalleError(f"{folder / CONFIG} is not a model's config: {error}") from error
    if found != kind:
        raise DalleError(f"{path} holds a {found}, not a {kind}")
    return folder, model


def _typed(table: type[Table], config: dict[str, Any], folder: Path) -> Any:
    try:
        return table.model_validate(config)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        raise DalleError(f"{folder / CONFIG} is damaged: `{key}`: {first['msg']}") from error


def _load_weights(module: nn.Module, folder: Path) -> Any:
    """Fill a module and make it ready for inference."""
    try:
        weights = load_file(folder / WEIGHTS)
        module.load_state_dict(weights)
    except (OSError, SafetensorError, RuntimeError) as error:
        first_lines = " ".join(str(error).split()[:40])
        raise DalleError(f"{folder / WEIGHTS} does not hold this model's weights: {first_lines}") from error
    return module.eval().requires_grad_(False)
