"""A folder of samples whose pictures `dalle data encode` has replaced by image tokens."""

from pathlib import Path

import numpy as np

from dalle_cli.data.images import BadSample, Problem
from dalle_cli.data.sources.exclusion import RemainingSource
from dalle_cli.data.sources.source import Sample, Source
from dalle_cli.data.token_shards import AGAIN, Encoding, TokenShard, read_record, shard_path
from dalle_cli.errors import DalleError, printable


class TokenSource:
    """Source of samples with tokens in place of pictures, in the order of their encoding."""

    def __init__(self, name: str) -> None:
        """Open a folder; raises DalleError if sizes show that the record or a shard is damaged."""
        self.name = name
        self.form = "folder of image tokens"
        self.unread: dict[str, int] = {}
        self._record = read_record(Path(name))
        self.encoding: Encoding = self._record.encoding
        self.problems: list[Problem] = [
            (printable(where), printable(reason)) for where, reason in self._record.bad
        ]

        self._shards = [TokenShard(path, self.encoding) for path in self._paths()]
        for path, shard, seal in zip(self._paths(), self._shards, self._record.shards, strict=True):
            if len(shard) != seal.samples:
                raise DalleError(
                    f"{path} holds {len(shard)} samples instead of {seal.samples}", AGAIN
                )
        self._ends = np.cumsum([len(shard) for shard in self._shards])
        self.n_lost = self._record.lost + sum(len(shard.bad) for shard in self._shards)

    def __reduce__(self) -> tuple[type["TokenSource"], tuple[str]]:
        return TokenSource, (self.name,)  # another process maps the shards itself

    def __len__(self) -> int:
        return self._record.samples

    def key(self, index: int) -> str:
        shard, i = self._find(index)
        try:
            return shard.text(i)[0]
        except BadSample:
            return f"sample {index}"  # its key is lost; reading it tells why

    def read(self, index: int) -> Sample:
        shard, i = self._find(index)
        key, captions = shard.text(i)
        return Sample(key, b"", captions=captions, image_tokens=shard.image_tokens(i))

    def captions(self, index: int) -> list[str]:
        shard, i = self._find(index)
        return shard.text(i)[1]

    def fingerprint(self) -> str:
        return self._record.fingerprint()

    def damaged(self) -> list[Problem]:
        """Read all shards and return those that have changed since they were written."""
        sealed = zip(self._paths(), self._shards, self._record.shards, strict=True)
        return [
            (printable(str(path)), "does not match its checksum")
            for path, shard, seal in sealed
            if shard.seal() != seal
        ]

    def _paths(self) -> list[Path]:
        return [shard_path(Path(self.name), number) for number in range(len(self._record.shards))]

    def _find(self, index: int) -> tuple[TokenShard, int]:
        """Return the shard that holds a sample, and the sample's index there."""
        number = int(np.searchsorted(self._ends, index, side="right"))
        return self._shards[number], index - int(self._ends[number]) + len(self._shards[number])


def token_source(source: Source) -> TokenSource | None:
    """Return the folder of tokens that a source reads, whole; None where it reads pictures."""
    whole = source.whole if isinstance(source, RemainingSource) else source
    return whole if isinstance(whole, TokenSource) else None
