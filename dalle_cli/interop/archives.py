"""Torch's archives as tensors by name: what torch.save has written since 1.6, and TorchScript (OpenAI's CLIP).

Both are a zip with a pickle, `data.pkl`, and the tensors' numbers in `data/`; nothing else in it is opened. Members are
plain and no two share bytes, so that nothing read is larger than the file. Knows nothing of models and their names.
"""

import zipfile
from pathlib import Path

from torch import Tensor

from dalle_cli.interop.tensor_pickle import RefusedError, TensorPickle
from dalle_cli.interop.tensor_records import MAX_PICKLE, tensors_of


def read_archive(path: Path) -> dict[str, Tensor]:
    """Read an archive's tensors, of a training checkpoint those of its `state_dict`, named `state_dict.` and so on.

    Tensors may share memory. Raises RefusedError for what it wants run or is too large, ValueError and others for
    damage.
    """
    size = path.stat().st_size
    with zipfile.ZipFile(path) as archive:
        top = archive.namelist()[0].partition("/")[0]
        _refuse_bombs(
            [
                m
                for m in archive.infolist()
                if m.filename.startswith((f"{top}/data.pkl", f"{top}/data/"))
            ],
            size,
        )
        root = TensorPickle().run(_read_pickle(archive, top))
        return tensors_of(root, size, lambda key: bytearray(archive.read(f"{top}/data/{key}")))


def _refuse_bombs(members: list[zipfile.ZipInfo], size: int) -> None:
    """Hold an archive to the size of its file: torch neither compresses weights nor stores them twice."""
    for member in members:
        if member.compress_type != zipfile.ZIP_STORED or member.flag_bits & 1:
            raise RefusedError(f"{member.filename} in it is compressed or encrypted")
    if sum(member.file_size for member in members) > size:
        raise RefusedError("the files in it are larger than it")


def _read_pickle(archive: zipfile.ZipFile, top: str) -> bytes:
    member = archive.getinfo(f"{top}/data.pkl")
    if member.file_size > MAX_PICKLE:
        raise ValueError(f"data.pkl has {member.file_size} bytes, more than {MAX_PICKLE}")
    return archive.read(member)
