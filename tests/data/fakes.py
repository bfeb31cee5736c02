"""A source in memory that fails on request, and preprocessing of its pairs; all of it pickles."""

import io
from dataclasses import dataclass, field

import numpy as np
from PIL import Image

from dalle_cli.data.images import BadSample
from dalle_cli.data.preprocessing import TransformerPreprocessing
from dalle_cli.data.sources import Sample
from dalle_cli.data.tokenizer import Tokenizer

N, SIDE = 10, 16  # samples of a source, pixels of a prepared side


def png(number: int) -> bytes:
    """A wide picture with a gradient, whose blue is the sample's number."""
    pixels = np.zeros((SIDE + 4, 2 * SIDE, 3), dtype=np.uint8)
    pixels[..., 0], pixels[..., 1], pixels[..., 2] = (
        np.arange(2 * SIDE)[None],
        np.arange(SIDE + 4)[:, None],
        number,
    )
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


@dataclass
class MemorySource:
    """Samples in memory, two captions each; some are bad, and at others the disk fails n times."""

    n: int = N
    bad: set[int] = field(default_factory=set)
    failures: dict[int, int] = field(default_factory=dict)
    name: str = "memory"
    form: str = "samples in memory"
    unread: dict[str, int] = field(default_factory=dict)
    problems: list[tuple[str, str]] = field(default_factory=list)
    n_lost: int = 0

    def __len__(self) -> int:
        return self.n

    def key(self, index: int) -> str:
        return f"sample-{index}"

    def read(self, index: int) -> Sample:
        if self.failures.get(index, 0) > 0:
            self.failures[index] -= 1
            raise OSError(5, "Input/output error")
        if index in self.bad:
            raise BadSample("made bad")
        return Sample(self.key(index), png(index), self.captions(index))

    def captions(self, index: int) -> list[str]:
        return [f"{index} first", f"{index} second"]

    def fingerprint(self) -> str:
        return str(self.n)


def pair_preprocessing(
    text_len: int = 12, caption_dropout: float = 0.0, bpe_dropout: float = 0.0
) -> TransformerPreprocessing:
    merges = [("▁", "f"), ("▁f", "i"), ("s", "t")]
    return TransformerPreprocessing(
        SIDE,
        text_len,
        tokenizer=Tokenizer(merges, "tokenizers"),
        bpe_dropout=bpe_dropout,
        caption_dropout=caption_dropout,
    )
