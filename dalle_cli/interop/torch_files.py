"""Reading foreign checkpoint files as tensors by name, without running anything that they contain.

The first bytes tell the formats apart: safetensors, torch's archives, and what torch.save wrote
before 1.6. Knows nothing of models.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors.torch import load_file
from torch import Tensor

from dalle_cli.errors import DalleError, printable
from dalle_cli.interop.archives import read_archive
from dalle_cli.interop.pickle_chains import MAGIC, read_pickle_chain
from dalle_cli.interop.tensor_pickle import RefusedError, TensorPickle
from dalle_cli.interop.tensor_records import MAX_PICKLE

HINT = (
    "only tensors are read from other people's files, and nothing in them is run: "
    "ask for the weights as safetensors"
)
MAX_SHOWN = 200


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read the tensors of a safetensors, torch.save or TorchScript file, by name.

    The content decides which, never the suffix. The names of a pickled module are those of its
    state_dict(). From a training checkpoint the entry `state_dict` is read, with `state_dict.`
    before its names. Tensors of one file may share memory. Raises DalleError for everything else.
    """
    with _errors_explained(path):
        tensors = _reader(path)(path)
    if not tensors:
        raise DalleError(f"{printable(str(path))} holds no tensors by name")
    return tensors


@contextmanager
def _errors_explained(path: Path) -> Iterator[None]:
    """Convert any exception of the parsers to one clear error.

    On garbage, they raise nearly everything.
    """
    file = printable(str(path))

    try:
        yield
    except DalleError:
        raise
    except RefusedError as error:
        raise DalleError(f"{file} is refused: {_shown(error)}", HINT) from error
    except OSError as error:
        raise DalleError(f"{file} cannot be read: {error.strerror or _shown(error)}") from error
    except Exception as error:
        raise DalleError(f"{file} is damaged or not a checkpoint: {_shown(error)}") from error


def _shown(error: Exception) -> str:
    """Return the first line of an error, made printable and cut.

    It may quote the file, at any length.
    """
    return printable(str(error).partition("\n")[0][:MAX_SHOWN]) or type(error).__name__


def _reader(path: Path) -> Callable[[Path], dict[str, Tensor]]:
    file = printable(str(path))
    if path.exists() and not path.is_file():
        raise DalleError(f"{file} is not a file")

    with path.open("rb") as opened:
        start = opened.read(len(MAGIC))

    if start[8:9] == b"{":
        return load_file
    if start.startswith(b"PK\x03\x04"):
        return read_archive
    if start == MAGIC:
        return read_pickle_chain
    if start.startswith(b"\x80"):
        return _refuse_pickle
    raise DalleError(f"{file} is not a checkpoint: neither safetensors nor written by torch")


def _refuse_pickle(path: Path) -> dict[str, Tensor]:
    """Refuse a bare pickle, naming the first thing that it asks to run, if any."""
    with path.open("rb") as file:
        TensorPickle().run(file.read(MAX_PICKLE))
    raise ValueError("a pickle that torch did not write")
