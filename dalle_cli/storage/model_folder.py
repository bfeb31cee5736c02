"""Reading and writing a `model/` folder: `config.json`, `model.safetensors` and nothing else.

It holds everything that inference needs. The config states a model's kind and sizes; the weights
are stored by parameter name. Both carry a checksum, which is checked whenever they are read. Knows
nothing of how a model is built. Nothing in the folder is executed.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from dalle_cli.config import MODEL_TABLES, ModelTable
from dalle_cli.errors import DalleError, UsageError, printable
from dalle_cli.models.weightless import UninitialisedWeights, meta_device
from dalle_cli.storage.atomic import atomic_write, make_folder, sync_to_disk
from dalle_cli.storage.integrity.checksums import (
    check_checksum,
    checksummed_json,
    load_checksummed_json,
)
from dalle_cli.storage.integrity.tensor_files import write_checksummed_tensors
from dalle_cli.storage.lazy_tensors import Stored
from dalle_cli.storage.run_dir import CONFIG, WEIGHTS, suggest_runs
from dalle_cli.storage.small_files import check_readable

Module = TypeVar("Module", bound=nn.Module)
Shapes = dict[str, list[int]]

MODEL_SCHEMA = 2
UNCHECKED = 1  # the format of 0.1.0, without checksums
MISMATCH_HINTS = {
    "dvae-encoder": "it can't turn tokens into pictures; import its decoder with it: "
    "`dalle import dvae ENCODER DECODER --run DIR`"
}
MOST_HEADER_BYTES = 100_000_000  # as safetensors has it


def write_model(folder: Path, config: Mapping[str, Any], weights: Mapping[str, Tensor]) -> None:
    """Write a model's kind, sizes and weights; each file appears complete or not at all.

    config   `kind` and `model`, the model's table as a dictionary
    weights  contiguous tensors on the CPU, by parameter name

    Raises DalleError if the disk is full or not writable; the previous files then stay.
    """
    make_folder(folder)
    text = checksummed_json({"schema": MODEL_SCHEMA, **config})
    n_bytes = sum(tensor.nbytes for tensor in weights.values())
    with atomic_write(folder / CONFIG, len(text)) as new_config:
        new_config.write_bytes(text)
        sync_to_disk(new_config)

        # replaced first: beside an earlier version's config, weights may lack a checksum or not
        with atomic_write(folder / WEIGHTS, n_bytes) as new_weights:
            write_checksummed_tensors(new_weights, dict(weights))
            sync_to_disk(new_weights)
    sync_to_disk(folder)


def half_precision(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return weights in fp16, apart from vectors, which stay as they are.

    Gains, biases and CLIP's scale take little room, and the rounding of one would change a whole
    channel. A tensor with a value beyond fp16's range stays as it is, too. `read_model` converts
    all of them to fp32.
    """
    largest = torch.finfo(torch.float16).max
    return {
        name: tensor.half() if tensor.dim() > 1 and tensor.abs().max() <= largest else tensor
        for name, tensor in weights.items()
    }


def is_half_precision(folder: Path) -> bool:
    """Whether weights of a model folder are stored in fp16, as `half_precision` returns them.

    Raises DalleError if the file is damaged.
    """
    path = folder / WEIGHTS
    try:
        with path.open("rb") as file:  # safetensors opens no path that is not UTF-8
            n_bytes = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(min(n_bytes, MOST_HEADER_BYTES)))
        return any(table.get("dtype") == "F16" for table in header.values())
    except (ValueError, AttributeError, RecursionError) as error:
        raise DalleError(f"{path} does not hold a model's weights") from error


def read_model_table(folder: Path) -> ModelTable:
    """Read a model's kind and sizes from its folder; raises DalleError if its config is damaged."""
    return _read_config(folder).table


class _Config(NamedTuple):
    """The content of `config.json`."""

    schema: int
    kind: str
    table: ModelTable


def _read_config(folder: Path) -> _Config:
    config = folder / CONFIG
    try:
        description = load_checksummed_json(config, since=MODEL_SCHEMA)
        schema, kind = description["schema"], str(description["kind"])
        if schema not in (UNCHECKED, MODEL_SCHEMA):
            hint = "use the version of dalle that wrote it"
            message = f"this version of dalle reads format {MODEL_SCHEMA}"
            raise DalleError(f"{config} is of format {schema}, but {message}", hint)
        return _Config(schema, kind, MODEL_TABLES[kind].model_validate(description["model"]))
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        raise DalleError(f"{config} is damaged: `{key}`: {first['msg']}") from error
    except OSError as error:
        raise DalleError(f"cannot read {config}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise DalleError(f"{config} is not a model's config: {error}") from error


def is_undamaged_model(folder: Path) -> bool:
    """Return whether a model folder is there and matches its checksums."""
    try:
        _check_undamaged(folder)
    except (DalleError, OSError):
        return False
    return True


def has_checksums(folder: Path) -> bool:
    """Return whether a model folder was written with checksums, as 0.1.0 did not.

    Raises DalleError if its config is damaged.
    """
    return _read_config(folder).schema != UNCHECKED


def check_stored_weights(folder: Path, build: Callable[[Any], nn.Module]) -> ModelTable:
    """Check that a folder's weights are undamaged and those of its config; return the sizes.

    build  builds a module with fresh weights from the table

    Raises DalleError like `read_model`.
    """
    table = read_model_table(folder)
    path = folder / WEIGHTS
    with _explain_unreadable(path):
        _check_undamaged(folder)
        _open_weights([path], _on_meta_device(build, table))
    return table


def read_model(
    folder: Path,
    kind: str,
    build: Callable[[Any], Module],
    *,
    weights: Sequence[Path] | None = None,
) -> Module:
    """Build a model from its folder and load its weights: frozen, in evaluation mode, on the CPU.

    build    builds a module with fresh weights from a table of the kind
    weights  safetensors files that hold other weights of this model; None: those of the folder

    Shapes are compared on the meta device first, so that a config that does not describe the
    weights allocates nothing. Raises UsageError if the folder holds another kind of model, and
    DalleError if the weights are missing, damaged or those of another model.
    """
    table = check_model_kind(folder, kind)
    files = [folder / WEIGHTS] if weights is None else list(weights)
    with _explain_unreadable(files[0]):
        if weights is None:
            _check_undamaged(folder)
        module = _on_meta_device(build, table)
        stored = _open_weights(files, module)

        tensors = {name: stored[name] for name in stored}
        check_floating_point(tensors, files[0])
        if next(module.buffers(), None) is not None:
            with UninitialisedWeights():
                module = build(table)  # computes what is not stored: attention masks
        # copied, since the bits of a product may depend on where a file puts a tensor in memory
        in_fp32 = {name: tensor.to(torch.float32, copy=True) for name, tensor in tensors.items()}
        module.load_state_dict(in_fp32, assign=True)
    return module.eval().requires_grad_(False)


@contextmanager
def _explain_unreadable(path: Path) -> Iterator[None]:
    """Convert the failures of reading weights into a DalleError that names their file."""
    try:
        yield
    except OSError as error:
        file, reason = error.filename or path, error.strerror or error
        raise DalleError(f"cannot read {file}: {reason}") from error
    except (SafetensorError, RuntimeError, TypeError, ValueError) as error:
        raise DalleError(f"{path} does not hold this model's weights: {error}") from error


def _check_undamaged(folder: Path) -> None:
    """Raise DalleError if a folder's weights do not match their checksum."""
    check_checksum(folder / WEIGHTS, required=has_checksums(folder))


def _on_meta_device(build: Callable[[Any], Module], table: ModelTable) -> Module:
    with meta_device():
        return build(table)


def _open_weights(files: list[Path], module: nn.Module) -> Stored:
    """Open weights; raises DalleError where names or shapes are not those of the module."""
    stored = Stored(files)
    shapes = {name: list(shape) for name, shape in stored.shapes.items()}
    check_shapes_match(shapes_of(module.state_dict()), shapes, files[0])
    return stored


def check_model_kind(folder: Path, kind: str) -> ModelTable:
    """Return a model's sizes; raises UsageError if the folder holds another kind of model."""
    config = _read_config(folder)
    if config.kind != kind:
        hint = _hint(folder, config.kind, kind)
        raise UsageError(f"{folder} holds a {config.kind}, not a {kind}", hint)
    return config.table


def _hint(folder: Path, actual: str, kind: str) -> str:
    """Return what to name in place of a folder that holds another kind of model."""
    run = folder.parent if folder.name == "model" else folder
    beside = suggest_runs(run.parent, kind)
    is_there = f"({kind})" in beside
    return MISMATCH_HINTS.get(actual) or (beside if is_there else f"name a {kind}'s run")


def read_weights(folder: Path, kind: str) -> dict[str, Tensor]:
    """Read the weights of a model of some kind by parameter name, whatever its sizes.

    Raises UsageError and DalleError like `read_model`.
    """
    check_model_kind(folder, kind)
    path = folder / WEIGHTS
    with _explain_unreadable(path):
        check_readable(path)
        _check_undamaged(folder)
        weights = load_file(path)
    check_floating_point(weights, path)
    return weights


def check_floating_point(weights: Mapping[str, Tensor], path: Path) -> None:
    """Raise DalleError, naming the first, if weights are integers, booleans or complex numbers."""
    for name, weight in weights.items():
        if not weight.is_floating_point():
            kind = str(weight.dtype).removeprefix("torch.")
            raise DalleError(
                f"{path} does not hold this model's weights: {printable(name)} is of type {kind}, "
                "not of a floating-point type"
            )


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
