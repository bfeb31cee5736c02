"""What is found in a data set when every sample is read and decoded, for `dalle data check`."""

from collections import Counter
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import numpy as np

from dalle_cli.data.images import BadSample, decode_image
from dalle_cli.data.sources import Source, TokenSource
from dalle_cli.data.token_shards import Encoding
from dalle_cli.errors import printable

COMMON_SIZES = 5  # that are listed


@dataclass
class DatasetFindings:
    """What is gathered over all samples; `bad` are those left out, as (where, reason)."""

    n_usable: int = 0
    sizes: list[tuple[int, int]] = field(default_factory=list)  # width and height in pixels
    codes: set[int] = field(default_factory=set)  # that occur among image tokens
    caption_lengths: list[int] = field(default_factory=list)  # in characters
    without_caption: list[str] = field(default_factory=list)
    bad: list[tuple[str, str]] = field(default_factory=list)

    def add(self, source: Source, index: int) -> None:
        """Read a sample, and decode its picture if it has one."""
        try:
            sample = source.read(index)
            if sample.image_tokens is None:
                self.sizes.append(decode_image(sample.image).size)
            else:
                self.codes.update(np.unique(sample.image_tokens).tolist())
        except BadSample as problem:
            self.bad.append((printable(source.key(index)), problem.reason))
            return
        except OSError as error:
            self.bad.append((printable(source.key(index)), str(error)))
            return

        self.n_usable += 1
        self.caption_lengths += map(len, sample.captions)
        if not sample.captions:
            self.without_caption.append(printable(sample.key))

    def facts(self, spec: str, source: Source) -> dict[str, Any]:
        """Return the figures of a data set of which at least one sample is usable."""
        of_pictures = (
            self._token_facts(source.encoding)
            if isinstance(source, TokenSource)
            else self._size_facts()
        )

        return {
            "data": spec,
            "form": source.form,
            "not_read": source.unread,
            "samples": self.n_usable,
            "captions": len(self.caption_lengths),
            "without_caption": self.without_caption,
            "longest_caption": max(self.caption_lengths, default=0),
            **of_pictures,
            "fingerprint": source.fingerprint(),
            "bad": [{"where": where, "reason": reason} for where, reason in self.bad],
        }

    def _size_facts(self) -> dict[str, Any]:
        short_sides = [min(size) for size in self.sizes]
        common = Counter(self.sizes).most_common(COMMON_SIZES)
        return {
            "short_side": {
                "min": min(short_sides),
                "median": int(median(short_sides)),
                "max": max(short_sides),
            },
            "sizes": [{"size": f"{w}x{h}", "pictures": n} for (w, h), n in common],
        }

    def _token_facts(self, encoding: Encoding) -> dict[str, Any]:
        return {
            "copies": encoding.copies,
            "grid_size": encoding.grid_size,
            "vocab_size": encoding.vocab_size,
            "codes_used": len(self.codes),
            "dvae": encoding.dvae,
        }
