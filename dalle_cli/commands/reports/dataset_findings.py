"""What is found in a data set when every sample is read and decoded, for `dalle data check`."""

from collections import Counter
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import numpy as np

from dalle_cli.data.images import BadSample, decode_image
from dalle_cli.data.sources import Source, TokenSource, encoded_folder
from dalle_cli.data.sources.captions import NO_CAPTION
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
    caption_faults: Counter[str] = field(default_factory=Counter)  # why samples have none
    n_bad: int = 0  # samples that count as bad in training
    bad: list[tuple[str, str]] = field(default_factory=list)

    def add(self, source: Source, index: int) -> None:
        """Read a sample, and decode its picture if it has one."""
        try:
            sample = source.read(index)
            if sample.image_tokens is None:
                self.sizes.append(decode_image(sample.image).size)
            else:
                self.codes.update(np.unique(sample.image_tokens).tolist())
        except (BadSample, OSError) as fault:
            self.n_bad += 1
            reason = fault.reason if isinstance(fault, BadSample) else str(fault)
            self.bad.append((printable(source.key(index)), reason))
            return

        self.n_usable += 1
        self.caption_lengths += map(len, sample.captions)
        if not sample.captions:
            self.without_caption.append(printable(sample.key))
            self.caption_faults[sample.caption_fault] += 1

    @property
    def bad_share(self) -> float:
        """The share of the samples that count as bad in training, of any model."""
        return self.n_bad / (self.n_usable + self.n_bad)

    @property
    def bad_share_with_captions(self) -> float:
        """The share that counts as bad for models that read captions.

        Samples without a caption are none for them, unless it is there and cannot be used.
        """
        n_missing = self.caption_faults[NO_CAPTION]
        n_bad = self.n_bad + len(self.without_caption) - n_missing
        return n_bad / max(self.n_usable + self.n_bad - n_missing, 1)

    def facts(self, spec: str, source: Source) -> dict[str, Any]:
        """Return the figures of a data set of which at least one sample is usable."""
        encoded = encoded_folder(source)
        of_pictures = (
            self._token_facts(encoded.encoding)
            if isinstance(encoded, TokenSource)
            else self._size_facts()
        )

        return {
            "data": spec,
            "form": source.form,
            "not_read": source.unread,
            "samples": self.n_usable,
            "captions": len(self.caption_lengths),
            "without_caption": self.without_caption,
            "caption_faults": dict(self.caption_faults.most_common()),
            "longest_caption": max(self.caption_lengths, default=0),
            **of_pictures,
            "fingerprint": source.fingerprint(),
            "bad_samples": self.n_bad,
            "bad_share": round(self.bad_share, 4),
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
