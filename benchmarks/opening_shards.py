"""Opening tar shards of 1,000 tiny captioned pictures: indexed for the first time, or again.

Usage: opening_shards.py first|again N_SHARDS
"""

import io
import os
import shutil
import sys
import tarfile
import tempfile
from pathlib import Path

from measuring import measure, peak_bytes
from PIL import Image

from dalle_cli.data.sources import open_dataset

PAIRS = 1000
LONG_AGO = 1_600_000_000  # indexes of shards that have just changed are not kept


def main(what: str, n_shards: int) -> None:
    """Time the opening of all shards as one source, with a cache folder of its own."""
    with tempfile.TemporaryDirectory() as folder:
        shards, cache = Path(folder, "shards"), Path(folder, "cache")
        os.environ["XDG_CACHE_HOME"] = str(cache)
        write_shards(shards, n_shards)
        base_bytes = peak_bytes()

        def work() -> None:
            if what == "first":
                shutil.rmtree(cache, ignore_errors=True)
            assert len(open_dataset(str(shards), captions_required=True)) == n_shards * PAIRS

        measure(work, base_bytes=base_bytes)


def write_shards(folder: Path, n_shards: int) -> None:
    """Write shards of the same content; nothing that opening does depends on it."""
    folder.mkdir()
    content = shard_content()
    for number in range(n_shards):
        shard = folder / f"{number:06d}.tar"
        shard.write_bytes(content)
        os.utime(shard, (LONG_AGO, LONG_AGO))


def shard_content() -> bytes:
    picture = io.BytesIO()
    Image.new("RGB", (32, 32), "red").save(picture, "PNG")
    shard = io.BytesIO()
    with tarfile.open(fileobj=shard, mode="w") as tar:
        for pair in range(PAIRS):
            for suffix, content in ((".png", picture.getvalue()), (".txt", b"a red square")):
                member = tarfile.TarInfo(f"{pair:09d}{suffix}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    return shard.getvalue()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
