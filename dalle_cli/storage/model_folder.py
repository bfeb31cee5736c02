"""Reading and writing a `model/` folder: `config.json`, `model.safetensors` and nothing else.

It holds everything that inference needs. The config states a model's kind and sizes; the weights
are stored by parameter name. Knows nothing of how a model is built. Nothing in the folder is
executed.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from dalle_cli.config import MODEL_TABLES, ModelTable
from dalle_cli.errors import DalleError
from dalle_cli.storage.atomic import atomic_write, explain_disk_failure, sync_to_disk
from dalle_cli.storage.run_dir import CONFIG, WEIGHTS, model_dir
from dalle_cli.untrusted import printable

Module = TypeVar("Module", bound=nn.Module)
Shapes = dict[str, list[int]]

MODEL_SCHEMA = 1


def write_model(folder: Path, config: Mapping[str, Any], weights: Mapping[str, Tensor]) -> None:
    """Write a model's kind, sizes and weights; each file appears complete or not at all.

    config   `kind` and `model`, the model's table as a dictionary
    weights  contiguous tensors on the CPU, by parameter name

    Raises DalleError if the disk is full or not writable; the previous files then stay.
    """
    n_bytes = sum(tensor.nbytes for tensor in weights.values())
    with explain_disk_failure(f"model {folder}", folder, n_bytes):
        folder.mkdir(parents=True, exist_ok=True)

        with (
            atomic_write(folder / CONFIG) as new_config,
            atomic_write(folder / WEIGHTS) as new_weights,
        ):
            new_config.write_text(json.dumps({"schema": MODEL_SCHEMA, **config}, indent=1))
            save_file(dict(weights), new_weights)

            sync_to_disk(new_config)
            sync_to_disk(new_weights)
        sync_to_disk(folder)


def read_model_table(path: Path) -> ModelTable:
    """Read a model's kind and sizes from a run or its model folder.

    Raises DalleError if there is no model or its config is damaged.
    """
    config = model_dir(path) / CONFIG
    try:
        description = json.loads(config.read_text("utf-8"))
        return MODEL_TABLES[str(description["kind"])].model_validate(description["model"])
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        raise DalleError(f"{config} is damaged: `{key}`: {first['msg']}") from error
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise DalleError(f"{config} is not a model's config: {error}") from error


def read_model(folder: Path, build: Callable[[], Module]) -> Module:
    """Build a module and load its weights: frozen, in evaluation mode, on the CPU.

    Shapes are compared on the meta device first, so that a config that does not describe the
    weights allocates nothing. Raises DalleError if the weights are missing, damaged or those of
    another model.
    """
    path = folder / WEIGHTS
    try:
        with torch.device("meta"):
            expected = shapes_of(build().state_dict())
        with safe_open(path, "pt") as file:
            names = file.keys()
            found = {name: file.get_slice(name).get_shape() for name in names}
        check_shapes_match(expected, found, path)

        module = build()
        module.load_state_dict(load_file(path))
    except (OSError, SafetensorError, RuntimeError, TypeError, ValueError) as error:
        raise DalleError(f"{path} does not hold this model's weights: {error}") from error
    return module.eval().requires_grad_(False)


def read_weights(folder: Path) -> dict[str, Tensor]:
    """Read a model folder's weights by parameter name.

    Raises DalleError if they are missing or damaged.
    """
    path = folder / WEIGHTS
    try:
        return load_file(path)
    except (OSError, SafetensorError, RuntimeError, ValueError) as error:
        raise DalleError(f"{path} does not hold this model's weights: {error}") from error


def shapes_of(tensors: Mapping[str, Tensor]) -> Shapes:
    """Return the shape of each tensor by name."""
    return {name: list(tensor.shape) for name, tensor in tensors.items()}


def check_shapes_match(expected: Shapes, found: Shapes, path: Path) -> None:
    """Raise DalleError, naming the first mismatch, unless a file's shapes are the expected ones."""
    mismatches = sorted(
        name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name)
    )
    if mismatches:
        first = mismatches[0]
        shapes = f"{found.get(first, 'missing')} instead of {expected.get(first, 'none')}"
        raise DalleError(
            f"{path} does not hold this model's weights: {len(mismatches)} tensors are not as "
            f"expected, first {printable(first)}: {shapes}"
        )
