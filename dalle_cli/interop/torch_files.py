"""Other people's checkpoint files as tensors by name, without running anything that a stranger put into them.

Three kinds, told apart by their first bytes: safetensors; what torch.save wrote, which torch's own weights-only loader
reads; and TorchScript archives. Knows nothing of models and their names.
"""

import io
import pickletools
import re
import warnings
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import torch
from safetensors.torch import load_file
from torch import Tensor

from dalle_cli.errors import DalleError
from dalle_cli.interop.archives import HINT, MAX_PICKLE, read_pickle, refusal, refuse_bombs, shown
from dalle_cli.interop.torchscript import TensorPickle, read_torchscript

LEGACY_MAGIC = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # what torch.save wrote first before it wrote zip files
LEGACY_PICKLES = 5  # magic number, protocol, system, objects, keys of the storages
MAX_TUPLES = 50_000  # four a tensor are usual


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read a checkpoint file's tensors by name: safetensors, a torch.save archive, or a TorchScript archive.

    The content says which, never the suffix. Of a training checkpoint, the entry `state_dict` is taken, and its names
    begin with `state_dict.`. Tensors of one file may share memory. Raises DalleError for everything else.
    """
    with _errors_told(path):
        tensors = _reader(path)(path)
    if not tensors:
        raise DalleError(f"{path} holds no tensors")
    return tensors


@contextmanager
def _errors_told(path: Path) -> Iterator[None]:
    """Make one clear error of whatever the parsers raise: on garbage, that is nearly everything."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except DalleError:
        raise
    except OSError as error:
        raise DalleError(f"{path} cannot be read: {error.strerror or _first_line(error)}") from error
    except Exception as error:
        raise DalleError(f"{path} is damaged or not a checkpoint: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    """Cut an error to what it says; torch's goes on to advise loading the file without protection."""
    text = str(error).rpartition("WeightsUnpickler error:")[2].strip()
    return shown(text.partition("\n")[0]) or type(error).__name__


def _reader(path: Path) -> Callable[[Path], dict[str, Tensor]]:
    if path.exists() and not path.is_file():
        raise DalleError(f"{path} is not a file")
    with path.open("rb") as file:
        start = file.read(9)
    if start[8:] == b"{":
        return load_file
    if start.startswith(b"PK\x03\x04"):
        return _read_zip
    if start.startswith(b"\x80"):
        return _read_legacy
    raise DalleError(f"{path} is not a checkpoint: neither safetensors nor written by torch")


def _read_zip(path: Path) -> dict[str, Tensor]:
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        top = members[0].filename.partition("/")[0]
        if any(member.filename.startswith((f"{top}/code/", f"{top}/constants.pkl")) for member in members):
            return read_torchscript(path, archive, top)
        refuse_bombs(path, members)
        _refuse_deep_pickles(io.BytesIO(read_pickle(archive, top)), 1)
    return _read_torch_save(path)


def _read_legacy(path: Path) -> dict[str, Tensor]:
    with path.open("rb") as file:
        pickled = file.read(MAX_PICKLE)
    if not pickled.startswith(LEGACY_MAGIC):
        TensorPickle(path).run(pickled)  # names the first thing that a foreign pickle wants run
        raise DalleError(f"{path} is not a checkpoint: a pickle that torch did not write", HINT)
    _refuse_deep_pickles(io.BytesIO(pickled), LEGACY_PICKLES)
    return _read_torch_save(path)


def _refuse_deep_pickles(file: BinaryIO, n_pickles: int) -> None:
    """Keep from torch the tuples nested so deep that to hash them (as a key) would overflow the stack of C."""
    opcodes = (opcode for _ in range(n_pickles) for opcode, _, _ in pickletools.genops(file))
    n_tuples = sum(opcode.name.startswith("TUPLE") for opcode in opcodes)
    if n_tuples > MAX_TUPLES:
        raise ValueError(f"its pickle makes {n_tuples} tuples, more than {MAX_TUPLES}")


def _read_torch_save(path: Path) -> dict[str, Tensor]:
    try:
        with path.open("rb") as file:  # not the path: torch.load goes by its suffix
            loaded = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:
        if refused := re.search(r"GLOBAL (\S+)", str(error)):
            raise refusal(path, refused[1]) from error
        raise
    if not isinstance(loaded, dict):
        raise DalleError(f"{path} holds no tensors by name")
    inner = loaded.get("state_dict")
    if isinstance(inner, dict):
        return {f"state_dict.{name}": tensor for name, tensor in _plain_tensors(inner).items()}
    return _plain_tensors(loaded)


def _plain_tensors(state: dict[Any, Any]) -> dict[str, Tensor]:
    """Keep the named tensors that have numbers of their own: neither sparse nor quantized nor one number expanded."""
    named = {key: Tensor.detach(value) for key, value in state.items() if isinstance(value, Tensor)}
    return {
        key: tensor
        for key, tensor in named.items()
        if isinstance(key, str)
        and (tensor.layout, tensor.device.type, tensor.is_quantized) == (torch.strided, "cpu", False)
        and not tensor.is_nested
        and tensor.numel() * tensor.element_size() <= tensor.untyped_storage().nbytes()
    }
