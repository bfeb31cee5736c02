"""Reading tensors by name from torch's archives: torch.save since 1.6, and TorchScript.

TorchScript is the format of OpenAI's CLIP. Both are a zip with a pickle, `data.pkl`, and the data
of the tensors in `data/`; nothing else in it is opened. Members must be stored plainly and share no
bytes, so that nothing read is larger than the file. Knows nothing of models and their names.
"""

import zipfile
from pathlib import Path

from torch import Tensor

from dalle_cli.interop.tensor_pickle import RefusedError, TensorPickle
from dalle_cli.interop.tensor_records import MAX_PICKLE, tensors_of


def read_archive(path: Path) -> dict[str, Tensor]:
    """Read the tensors of an archive, by name.

    Those of a training checkpoint come from its `state_dict`, with that prefix. Tensors may share
    memory. Raises RefusedError if the archive asks to run something or is too large, ValueError and
    others for damage.
    """
    size = path.stat().st_size
    with zipfile.ZipFile(path) as archive:
        top = archive.namelist()[0].partition("/")[0]
        needed = (f"{top}/data.pkl", f"{top}/data/")
        _refuse_bombs([m for m in archive.infolist() if m.filename.startswith(needed)], size)

        root = TensorPickle().run(_read_pickle(archive, top))

        def read_storage(key: str) -> bytearray:
            return bytearray(archive.read(f"{top}/data/{key}"))

        return tensors_of(root, size, read_storage=read_storage)


def _refuse_bombs(members: list[zipfile.ZipInfo], size: int) -> None:
    """Raise RefusedError if members are compressed, encrypted or larger than the file.

    Torch neither compresses weights nor stores them twice.
    """
    for member in members:
        if member.compress_type != zipfile.ZIP_STORED or member.flag_bits & 1:
            raise RefusedError(f"{member.filename} in it is compressed or encrypted")
    if sum(member.file_size for member in members) > size:
        raise RefusedError("the files in it are larger than the archive")


def _read_pickle(archive: zipfile.ZipFile, top: str) -> bytes:
    member = archive.getinfo(f"{top}/data.pkl")
    if member.file_size > MAX_PICKLE:
        raise ValueError(f"data.pkl has {member.file_size} bytes, more than {MAX_PICKLE}")
    return archive.read(member)
