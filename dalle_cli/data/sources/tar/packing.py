"""Writing tar shards in the layout of webdataset: pictures as they are, captions as text.

The same samples give the same bytes, and are read back with the same keys, captions and order.
Knows nothing of where samples come from.
"""

import codecs
import io
import tarfile
from pathlib import Path

from dalle_cli.data.images import BadSample
from dalle_cli.data.pictures.formats import START, describe_unreadable, format_of
from dalle_cli.data.sources.file_names import split_name
from dalle_cli.data.sources.source import Sample
from dalle_cli.storage.atomic import sync_to_disk

_SUFFIX_OF = {"JPEG": ".jpg", "PNG": ".png", "WebP": ".webp", "GIF": ".gif"}
_MARK = codecs.BOM_UTF8.decode()


def is_packable(key: str) -> bool:
    """Return whether members of a shard that are named by a key are read as a sample of that key.

    Hidden files are not, for example, which a table may name all the same.
    """
    if "\0" in key or key.startswith("./") or split_name(f"{key}.jpg") != (key, ".jpg"):
        return False
    try:
        return key.encode("utf-8", "surrogateescape").decode("utf-8", "surrogateescape") == key
    except UnicodeEncodeError:
        return False


class ShardWriter:
    """A context in which samples go to `000000.tar`, `000001.tar` and so on, in order.

    A sample whose key is in the shard already begins the next one: there, they would be one sample.
    """

    def __init__(self, folder: Path, shard_size: int) -> None:
        """Prepare to write shards of `shard_size` samples into a folder that holds none."""
        self.n_shards = 0
        self._folder = folder
        self._shard_size = shard_size
        self._keys: set[str] = set()
        self._tar: tarfile.TarFile | None = None

    def __enter__(self) -> "ShardWriter":
        return self

    def __exit__(self, *exception: object) -> None:
        self._close()

    def add(self, sample: Sample) -> None:
        """Write a sample; raises BadSample if its picture is in no format that is read."""
        suffix = _SUFFIX_OF.get(format_of(sample.image[:START]) or "")
        if suffix is None:
            raise BadSample(describe_unreadable(sample.image))
        if len(self._keys) == self._shard_size or sample.key in self._keys:
            self._close()
        if self._tar is None:
            self._tar = self._open_next()

        self._keys.add(sample.key)
        _add_member(self._tar, sample.key + suffix, sample.image)
        if sample.captions:
            _add_member(self._tar, f"{sample.key}.txt", _caption_file(sample.captions))

    def _open_next(self) -> tarfile.TarFile:
        path = self._folder / f"{self.n_shards:06d}.tar"
        self.n_shards += 1
        return tarfile.open(
            path, "w", format=tarfile.GNU_FORMAT, encoding="utf-8", errors="surrogateescape"
        )

    def _close(self) -> None:
        if self._tar is not None:
            self._tar.close()
            sync_to_disk(Path(str(self._tar.name)))
        self._tar = None
        self._keys.clear()


def _add_member(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)  # of no owner and no time
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))


def _caption_file(captions: list[str]) -> bytes:
    text = "".join(f"{caption}\n" for caption in captions)
    # A mark at the start of the first caption would be taken for that of the file
    return (_MARK + text if text.startswith(_MARK) else text).encode()
