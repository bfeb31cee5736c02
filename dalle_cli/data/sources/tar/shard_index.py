"""Where the samples of a shard are: all that is known of it without reading a picture.

Numbers are in arrays and keys in one string of bytes: so a million samples take tens of megabytes,
which processes that only read them share. Knows nothing of other shards, of captions beside the
shard, and of whether captions are required.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from dalle_cli.data.images import Problem
from dalle_cli.data.sources.file_names import JSON_SUFFIX, count_unread
from dalle_cli.data.sources.pairing import Pair, caption_suffixes, count_lost, pair_up
from dalle_cli.data.sources.tar.headers import NO_MEMBERS, Span, scan_shard


class Place(NamedTuple):
    """Where a sample is.

    offset, size                 of its picture, in bytes
    first_caption, end_caption   its caption files among those of the index
    key_start, key_end           its key among the keys of the index
    ending                       what follows the key in the name of the picture, by number
    is_json                      whether its caption file is JSON
    """

    offset: int
    size: int
    first_caption: int
    end_caption: int
    key_start: int
    key_end: int
    ending: int
    is_json: bool


_NARROW = {"ending": "u1", "is_json": "?"}
PLACE = np.dtype([(name, _NARROW.get(name, "<i8")) for name in Place._fields])
SPAN = np.dtype("<i8")


@dataclass(frozen=True)
class ShardIndex:
    """The samples of a shard, and what else it holds.

    places            PLACE [N], in the order of the samples
    captions          int64 [M, 2]: offset and size of every caption file, sample after sample
    keys              the keys of all samples, one after the other, in UTF-8
    endings           what follows the keys in the names of pictures, each once
    caption_suffixes  those of caption files that samples have
    problems          (member or "", reason) for everything that is left out
    unread            number of files that are not read, by suffix
    n_lost            number of members that were to be samples and are left out
    is_damaged        whether members are lost that cannot be counted
    """

    places: np.ndarray
    captions: np.ndarray
    keys: bytes
    endings: list[str] = field(default_factory=list)
    caption_suffixes: list[str] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    unread: dict[str, int] = field(default_factory=dict)
    n_lost: int = 0
    is_damaged: bool = False

    def place(self, number: int) -> Place:
        """Return the place of a sample as plain numbers."""
        return Place(*self.places[number].item())

    def key(self, number: int) -> str:
        """Return the key of a sample."""
        place = self.place(number)
        return _decoded(self.keys[place.key_start : place.key_end])

    def picture(self, number: int) -> str:
        """Return the name of a sample's picture."""
        return self.key(number) + self.endings[self.place(number).ending]

    def iterate_keys(self) -> Iterator[str]:
        """Yield the keys of all samples in order."""
        starts, ends = self.places["key_start"].tolist(), self.places["key_end"].tolist()
        return (_decoded(self.keys[start:end]) for start, end in zip(starts, ends, strict=True))

    def caption_sizes(self) -> np.ndarray:
        """Return the bytes of every sample's first caption file, 0 if there is none: int64 [N]."""
        sizes = np.zeros(len(self.places), np.int64)
        first = self.places["first_caption"]
        has_caption = self.places["end_caption"] > first
        sizes[has_caption] = self.captions[first[has_caption], 1]
        return sizes


def index_shard(path: str) -> ShardIndex:
    """Scan a shard and pair its pictures with captions; raises OSError if it cannot be read."""
    members, problems = scan_shard(path)
    names = [name for name, _ in members]
    pairs, unpaired = pair_up(names, captions_required=False)

    spans = dict(reversed(members))  # so that the first of equal names counts
    captions = [spans[name] for pair in pairs for name in pair.captions]
    keys = [pair.key.encode("utf-8", "surrogateescape") for pair in pairs]
    endings: dict[str, int] = {}
    places = np.empty(len(pairs), PLACE)
    places["offset"], places["size"] = _columns([spans[pair.picture] for pair in pairs])
    places["first_caption"], places["end_caption"] = _edges(len(pair.captions) for pair in pairs)
    places["key_start"], places["key_end"] = _edges(map(len, keys))
    places["ending"] = [
        endings.setdefault(pair.picture[len(pair.key) :], len(endings)) for pair in pairs
    ]
    suffixes = caption_suffixes(pairs)
    places["is_json"] = JSON_SUFFIX in suffixes and [_has_json(pair) for pair in pairs]

    return ShardIndex(
        places=places,
        captions=np.array(captions, SPAN).reshape(-1, 2),
        keys=b"".join(keys),
        endings=list(endings),
        caption_suffixes=sorted(suffixes),
        problems=problems + unpaired,
        unread=_count_unread(names, pairs),
        n_lost=count_lost(problems + unpaired),
        is_damaged=any(not name and reason != NO_MEMBERS for name, reason in problems),
    )


def join_indexes(indexes: Sequence[ShardIndex]) -> ShardIndex:
    """Join the samples of several shards to one index, without what else they hold."""
    places = np.concatenate([index.places for index in indexes])
    counts = [len(index.places) for index in indexes]
    caption_bases = _bases([len(index.captions) for index in indexes], counts)
    key_bases = _bases([len(index.keys) for index in indexes], counts)
    for name in ("first_caption", "end_caption"):
        places[name] += caption_bases
    for name in ("key_start", "key_end"):
        places[name] += key_bases
    captions = np.concatenate([index.captions for index in indexes])
    return ShardIndex(places, captions, b"".join(index.keys for index in indexes))


def _bases(lengths: Sequence[int], counts: Sequence[int]) -> np.ndarray:
    """Return, for every sample, the summed lengths of the shards before its own: int64 [N]."""
    return np.repeat(np.cumsum([0, *lengths])[:-1], counts)


def _decoded(key: bytes) -> str:
    return key.decode("utf-8", "surrogateescape")


def _columns(spans: list[Span]) -> np.ndarray:
    """Return offsets and sizes: int64 [2, N]."""
    return np.array(spans, SPAN).reshape(-1, 2).T


def _edges(lengths: Iterable[int]) -> tuple[np.ndarray, np.ndarray]:
    """Return where things of these lengths, one after the other, start and end: int64 [N] each."""
    sizes = np.fromiter(lengths, SPAN)
    ends = sizes.cumsum()
    return ends - sizes, ends


def _has_json(pair: Pair) -> bool:
    return any(caption[-5:].lower() == JSON_SUFFIX for caption in pair.captions)


def _count_unread(names: list[str], pairs: list[Pair]) -> dict[str, int]:
    if len(names) == len(pairs) + sum(len(pair.captions) for pair in pairs):
        return {}  # every member is part of a sample
    keys = {key for pair in pairs for key in (pair.key, pair.picture)}
    return count_unread(names, keys)
