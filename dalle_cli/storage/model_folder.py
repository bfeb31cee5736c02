"""storage.model_folder: to be described."""

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
from dalle_cli.storage.lazy_tensors import Gathered
from dalle_cli.storage.run_dir import CONFIG, WEIGHTS, model_dir
from dalle_cli.untrusted import printable

SCHEMA = 1


def tensor_bytes(tensors: Mapping[str, Tensor]) -> dict[str, int]:
    """Count each tensor's bytes, gathering none."""
    if isinstance(tensors, Gathered):
        return {
            name: shape.numel() * torch.float32.itemsize for name, shape in tensors.shapes.items()
        }
    return {name: tensor.nbytes for name, tensor in tensors.items()}


def write_model(folder: Path, config: dict[str, Any], weights: dict[str, Tensor]) -> None:
    with explain_disk_failure(f"model {folder}", folder, sum(tensor_bytes(weights).values())):
        folder.mkdir(parents=True, exist_ok=True)
        with (
            atomic_write(folder / CONFIG) as new_config,
            atomic_write(folder / WEIGHTS) as new_weights,
        ):
            new_config.write_text(json.dumps({"schema": SCHEMA, **config}, indent=1))
            save_file(weights, new_weights)
            sync_to_disk(new_config)
            sync_to_disk(new_weights)
        sync_to_disk(folder)


def on_cpu(tensor: Tensor) -> Tensor:
    """Lay a tensor out as safetensors stores it."""
    return tensor.detach().cpu().contiguous()


Module = TypeVar("Module", bound=nn.Module)


def read_model_table(path: Path) -> ModelTable:
    """Read the sizes of the model of a run, or of a model folder; raises DalleError where there is none."""
    config = model_dir(path) / CONFIG
    try:
        description = json.loads(config.read_text("utf-8"))
        return MODEL_TABLES[str(description["kind"])].model_validate(description["model"])
    except ValidationError as error:
        first = error.errors()[0]
        raise DalleError(
            f"{config} is damaged: `{'.'.join(map(str, first['loc']))}`: {first['msg']}"
        ) from error
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise DalleError(f"{config} is not a model's config: {error}") from error


def read_weights(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (OSError, SafetensorError, RuntimeError, ValueError) as error:
        raise DalleError(f"{path} does not hold this model's weights: {error}") from error


def check_fit(expected: dict[str, list[int]], found: dict[str, list[int]], path: Path) -> None:
    """Raise DalleError, naming the first, where names or shapes of weights are not those of the model."""
    misfits = sorted(
        name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name)
    )
    if misfits:
        first = misfits[0]
        raise DalleError(
            f"{path} does not hold this model's weights: {len(misfits)} tensors are not as expected, first "
            f"{printable(first)}: {found.get(first, 'missing')} instead of {expected.get(first, 'none')}"
        )


def load_module(build: Callable[[], Module], folder: Path) -> Module:
    """Build a module and fill it, ready for inference.

    The sizes are compared first, so that a config that does not describe the weights allocates nothing.
    """
    path = folder / WEIGHTS
    try:
        with torch.device("meta"):
            expected = {name: list(tensor.shape) for name, tensor in build().state_dict().items()}
        with safe_open(path, "pt") as file:
            found = {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118  no mapping
        check_fit(expected, found, path)
        module = build()
        module.load_state_dict(load_file(path))
    except (OSError, SafetensorError, RuntimeError, TypeError, ValueError) as error:
        raise DalleError(f"{path} does not hold this model's weights: {error}") from error
    return module.eval().requires_grad_(False)
