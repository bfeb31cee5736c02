"""Folders, shards and manifests made for a test, and what a source says of them."""

import io
import json
import tarfile
from pathlib import Path

from dalle_cli.data.images import BadSample, decode_image
from dalle_cli.data.sources import Sample, Source, open_dataset

BAD = Path(__file__).parents[1] / "bad"


def write_files(folder: Path, files: dict[str, bytes]) -> str:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return str(folder)


def write_tar(path: Path, members: list[tuple[str, bytes]]) -> str:
    with tarfile.open(path, "w") as tar:
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return str(path)


def pairs(*keys: str) -> dict[str, bytes]:
    """Files of a sample per key; sources do not decode, so any bytes do for a picture."""
    return {
        name: content
        for key in keys
        for name, content in [
            (f"{key}.jpg", f"picture {key}".encode()),
            (f"{key}.txt", f"caption {key}\n".encode()),
        ]
    }


def write_lines(path: Path, rows: list[dict]) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def every_form(tmp_path: Path, files: dict[str, bytes]) -> list[Source]:
    folder = write_files(tmp_path / "folder", files)
    rows = [f"{name},caption" for name in files if name.endswith(".jpg")]
    (tmp_path / "folder" / "rows.csv").write_text("\n".join(["image,caption", *rows]))
    shard = write_tar(tmp_path / "all.tar", list(files.items()))
    return [
        open_dataset(spec, captions_required=True) for spec in (folder, shard, f"{folder}/rows.csv")
    ]


def samples(source: Source) -> list[Sample]:
    return [source.read(index) for index in range(len(source))]


def keys(source: Source) -> list[str]:
    return [source.key(index) for index in range(len(source))]


def problems(source: Source) -> dict[str, str]:
    """Reasons by the place within the source."""
    return {where.removeprefix(source.name)[1:]: reason for where, reason in source.problems}


def fault(source: Source, index: int) -> str:
    """Why a sample cannot be read and decoded; "" if it can."""
    try:
        decode_image(source.read(index).image)
    except BadSample as error:
        return error.reason
    return ""
