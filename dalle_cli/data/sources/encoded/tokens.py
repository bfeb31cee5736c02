"""Folders of samples whose pictures `dalle data encode` has replaced: by image tokens, here."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from dalle_cli.data.images import BadSample, Problem
from dalle_cli.data.sources.exclusion import RemainingSource
from dalle_cli.data.sources.source import Sample, Source
from dalle_cli.data.token_shards import (
    AGAIN,
    Encoding,
    SampleShard,
    SealedFolder,
    TokenShard,
    read_record,
    shard_path,
)
from dalle_cli.errors import DalleError, printable


class EncodedFolder:
    """What sources of encoded samples have in common; samples come in the order of encoding."""

    form: str

    def __init__(
        self,
        name: str,
        record: SealedFolder,
        shards: Sequence[SampleShard],
        path_of: Callable[[Path, int], Path],
    ) -> None:
        """Check that shards have the samples that the record says.

        path_of  returns the path of a shard, given the folder and its number

        Raises DalleError if sizes show that the record or a shard is damaged.
        """
        self.name = name
        self.unread: dict[str, int] = {}
        self._sealed, self._sample_shards = record, shards
        self._paths = [path_of(Path(name), number) for number in range(len(shards))]
        self.problems: list[Problem] = [
            (printable(where), printable(reason)) for where, reason in record.bad
        ]

        for path, shard, seal in zip(self._paths, shards, record.shards, strict=True):
            if len(shard) != seal.samples:
                raise DalleError(
                    f"{path} holds {len(shard)} samples instead of {seal.samples}", AGAIN
                )
        self._ends = np.cumsum([len(shard) for shard in shards])
        self.n_lost = record.lost + sum(len(shard.bad) for shard in shards)

    def __len__(self) -> int:
        return self._sealed.samples

    def key(self, index: int) -> str:
        number, i = self._find(index)
        try:
            return self._sample_shards[number].text(i)[0]
        except BadSample:
            return f"sample {index}"  # its key is lost; reading it tells why

    def captions(self, index: int) -> list[str]:
        number, i = self._find(index)
        return self._sample_shards[number].text(i)[1]

    def fingerprint(self) -> str:
        return self._sealed.fingerprint()

    def damaged(self) -> list[Problem]:
        """Read all shards and return those that have changed since they were written."""
        sealed = zip(self._paths, self._sample_shards, self._sealed.shards, strict=True)
        return [
            (printable(str(path)), "does not match its checksum")
            for path, shard, seal in sealed
            if shard.seal() != seal
        ]

    def _find(self, index: int) -> tuple[int, int]:
        """Return the number of the shard that holds a sample, and the sample's index there."""
        number = int(np.searchsorted(self._ends, index, side="right"))
        return number, index - int(self._ends[number]) + len(self._sample_shards[number])


class TokenSource(EncodedFolder):
    """Source of samples with tokens in place of pictures."""

    form = "folder of image tokens"

    def __init__(self, name: str) -> None:
        """Open a folder; raises DalleError if sizes show that the record or a shard is damaged."""
        record = read_record(Path(name))
        self.encoding: Encoding = record.encoding
        paths = [shard_path(Path(name), number) for number in range(len(record.shards))]
        self._shards = [TokenShard(path, self.encoding) for path in paths]
        super().__init__(name, record, self._shards, shard_path)

    def __reduce__(self) -> tuple[type["TokenSource"], tuple[str]]:
        return TokenSource, (self.name,)  # another process maps the shards itself

    def read(self, index: int) -> Sample:
        number, i = self._find(index)
        key, captions = self._shards[number].text(i)
        tokens = self._shards[number].image_tokens(i)
        return Sample(key, b"", captions=captions, image_tokens=tokens)


def encoded_folder(source: Source) -> EncodedFolder | None:
    """Return the encoded folder that a source reads, whole; None where it reads pictures."""
    whole = source.whole if isinstance(source, RemainingSource) else source
    return whole if isinstance(whole, EncodedFolder) else None
