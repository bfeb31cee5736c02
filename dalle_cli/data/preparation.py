"""From a sample to what a model trains on: decoded, cropped and, where the model reads text, tokenised and padded.

With a seed a preparation is random, as training wants it; without one it is always the same, as validation wants it.
Knows nothing of batches, nor of where samples come from or what to do about bad ones.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from dalle_cli.data.augment import centre_crop, clip_crop, clip_square, dvae_crop, transformer_crop
from dalle_cli.data.clip_tokenizer import frame, own_clip_tokenizer
from dalle_cli.data.images import decode_image
from dalle_cli.data.order import mix
from dalle_cli.data.sources import Sample
from dalle_cli.data.tokenizer import Tokenizer


@dataclass(frozen=True)
class Example:
    """One prepared sample: pixels uint8 [H, W, 3]; caption and its tokens int64 [T] where the model reads text."""

    pixels: np.ndarray
    caption: str = ""
    text_tokens: np.ndarray | None = None
    is_cut: bool = False


class Preparation(Protocol):
    """Makes an example of a sample: at random with a seed, always the same without."""

    def __call__(self, sample: Sample, seed: int | None) -> Example: ...


@dataclass(frozen=True)
class PicturePreparation:
    """What the dVAE sees: pictures alone."""

    image_size: int

    def __call__(self, sample: Sample, seed: int | None) -> Example:
        image = decode_image(sample.image)
        if seed is None:
            return Example(centre_crop(image, self.image_size))
        return Example(dvae_crop(image, self.image_size, _generator(seed, "crop")))


@dataclass(frozen=True)
class PairPreparation:
    """What the transformer sees: a picture and one of its captions, cut to text_len - 1 tokens."""

    image_size: int
    text_len: int
    tokenizer: Tokenizer
    bpe_dropout: float
    caption_dropout: float

    def __call__(self, sample: Sample, seed: int | None) -> Example:
        image = decode_image(sample.image)
        if seed is None:
            return self._example(centre_crop(image, self.image_size), sample.captions[0], 0.0, None)
        crop = transformer_crop(image, self.image_size, _generator(seed, "crop"))
        text = _generator(seed, "text")
        caption = sample.captions[int(text.integers(len(sample.captions)))]
        if text.random() < self.caption_dropout:
            caption = ""
        return self._example(crop, caption, self.bpe_dropout, text)

    def _example(self, pixels: np.ndarray, caption: str, dropout: float, rng: np.random.Generator | None) -> Example:
        tokens = self.tokenizer.encode(caption, dropout, rng)
        return Example(pixels, caption, pad_tokens(tokens, self.text_len), is_cut=len(tokens) >= self.text_len)


@dataclass(frozen=True)
class ClipPreparation:
    """What CLIP sees: a picture and one of its captions, between start and end of text."""

    image_size: int
    text_len: int
    tokenizer: Tokenizer
    bpe_dropout: float

    def __call__(self, sample: Sample, seed: int | None) -> Example:
        image = decode_image(sample.image)
        if seed is None:
            return self._example(clip_square(image, self.image_size), sample.captions[0], 0.0, None)
        crop = clip_crop(image, self.image_size, _generator(seed, "crop"))
        text = _generator(seed, "text")
        return self._example(crop, sample.captions[int(text.integers(len(sample.captions)))], self.bpe_dropout, text)

    def _example(self, pixels: np.ndarray, caption: str, dropout: float, rng: np.random.Generator | None) -> Example:
        ids = self.tokenizer.encode(caption, dropout, rng)
        clip_tokenizer = own_clip_tokenizer(self.tokenizer)
        tokens = frame(ids, clip_tokenizer.start_of_text, clip_tokenizer.end_of_text, self.text_len)
        return Example(pixels, caption, tokens, is_cut=len(ids) > self.text_len - 2)


def pad_tokens(tokens: list[int], text_len: int) -> np.ndarray:
    """Cut to text_len - 1 tokens and fill up with -1: int64 [text_len]."""
    padded = np.full(text_len, -1, dtype=np.int64)
    kept = tokens[: text_len - 1]
    padded[: len(kept)] = kept
    return padded


def _generator(seed: int, purpose: str) -> np.random.Generator:
    return np.random.default_rng(mix(seed, purpose))
