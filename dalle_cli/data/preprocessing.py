"""From a sample to what a model trains on: decoded, cropped and, where the model reads text, tokenised and padded.

With a seed a preparation is random, as training wants it; without one it is always the same, as validation wants it.
Knows nothing of batches, nor of where samples come from or what to do about bad ones.
"""

from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from PIL import Image

from dalle_cli.data.augment import centre_crop, clip_crop, clip_square, dvae_crop, transformer_crop
from dalle_cli.data.clip_tokenizer import frame, own_clip_tokenizer
from dalle_cli.data.images import decode_image
from dalle_cli.data.shuffling import derive_seed
from dalle_cli.data.sources import Sample
from dalle_cli.data.tokenizer import Tokenizer

NO_PIXELS = np.empty((0, 0, 3), np.uint8)


@dataclass(frozen=True)
class Example:
    """One prepared sample: pixels uint8 [H, W, 3]; caption and its tokens int64 [T] where the model reads text.

    image_tokens  integers [I] where the picture came as tokens; there are no pixels then
    is_enlarged   whether the picture's short side was below the model's
    """

    pixels: np.ndarray
    caption: str = ""
    text_tokens: np.ndarray | None = None
    is_cut: bool = False
    image_tokens: np.ndarray | None = None
    is_enlarged: bool = False


class Preprocessing(Protocol):
    """Makes an example of a sample: at random with a seed, always the same without."""

    def __call__(self, sample: Sample, seed: int | None) -> Example: ...


@dataclass(frozen=True)
class DVAEPreprocessing:
    """What the dVAE sees: pictures alone."""

    image_size: int

    def __call__(self, sample: Sample, seed: int | None) -> Example:
        image, size = decode_image(sample.image), self.image_size
        pixels = (
            centre_crop(image, size)
            if seed is None
            else dvae_crop(image, size, _generator(seed, "crop"))
        )
        return Example(pixels, is_enlarged=min(image.size) < size)


@dataclass(frozen=True)
class TransformerPreprocessing:
    """What the transformer sees: a picture and one of its captions, cut to text_len - 1 tokens.

    Of a picture that was cropped and encoded beforehand, training draws one of the random crops.
    """

    image_size: int
    text_len: int
    tokenizer: Tokenizer
    bpe_dropout: float
    caption_dropout: float

    def __call__(self, sample: Sample, seed: int | None) -> Example:
        if seed is None:
            return self._example(sample, None, sample.captions[0], 0.0, None)
        text = _generator(seed, "text")
        caption = sample.captions[int(text.integers(len(sample.captions)))]
        if text.random() < self.caption_dropout:
            caption = ""
        return self._example(sample, _generator(seed, "crop"), caption, self.bpe_dropout, text)

    def _example(
        self,
        sample: Sample,
        crop: np.random.Generator | None,
        caption: str,
        dropout: float,
        text: np.random.Generator | None,
    ) -> Example:
        tokens = self.tokenizer.encode(caption, dropout, text)
        padded, is_cut = pad_tokens(tokens, self.text_len), len(tokens) >= self.text_len
        crops = sample.image_tokens
        if crops is None:
            image, size = decode_image(sample.image), self.image_size
            pixels = _pair_crop(image, size, crop)
            return Example(pixels, caption, padded, is_cut, is_enlarged=min(image.size) < size)
        place = 0 if crop is None else int(crop.integers(1, len(crops)))
        return Example(NO_PIXELS, caption, padded, is_cut, crops[place])


@dataclass(frozen=True)
class EncodingPreprocessing:
    """What the discrete VAE encodes for the transformer: the centred crop, then random ones, the copies."""

    image_size: int
    copies: int

    def __call__(self, sample: Sample, seed: int) -> np.ndarray:
        """Cut all crops: uint8 [C, H, W, 3]; copy k is the one that `TransformerPreprocessing` cuts with derive_seed(seed, k)."""
        image = decode_image(sample.image)
        generators = [
            None,
            *(_generator(derive_seed(seed, copy), "crop") for copy in range(self.copies)),
        ]
        return np.stack([_pair_crop(image, self.image_size, generator) for generator in generators])


@dataclass(frozen=True)
class ClipPreprocessing:
    """What CLIP sees: a picture and one of its captions, between start and end of text."""

    image_size: int
    text_len: int
    tokenizer: Tokenizer
    bpe_dropout: float

    def __call__(self, sample: Sample, seed: int | None) -> Example:
        image = decode_image(sample.image)
        if seed is None:
            example = self._example(
                clip_square(image, self.image_size), sample.captions[0], 0.0, None
            )
        else:
            crop = clip_crop(image, self.image_size, _generator(seed, "crop"))
            text = _generator(seed, "text")
            caption = sample.captions[int(text.integers(len(sample.captions)))]
            example = self._example(crop, caption, self.bpe_dropout, text)
        return replace(example, is_enlarged=min(image.size) < self.image_size)

    def _example(
        self, pixels: np.ndarray, caption: str, dropout: float, rng: np.random.Generator | None
    ) -> Example:
        ids = self.tokenizer.encode(caption, dropout, rng)
        clip_tokenizer = own_clip_tokenizer(self.tokenizer)
        tokens = frame(ids, clip_tokenizer.start_of_text, clip_tokenizer.end_of_text, self.text_len)
        return Example(pixels, caption, tokens, is_cut=len(ids) > self.text_len - 2)


def _pair_crop(image: Image.Image, image_size: int, rng: np.random.Generator | None) -> np.ndarray:
    return (
        centre_crop(image, image_size) if rng is None else transformer_crop(image, image_size, rng)
    )


def pad_tokens(tokens: list[int], text_len: int) -> np.ndarray:
    """Cut to text_len - 1 tokens and fill up with -1: int64 [text_len]."""
    padded = np.full(text_len, -1, dtype=np.int64)
    kept = tokens[: text_len - 1]
    padded[: len(kept)] = kept
    return padded


def _generator(seed: int, purpose: str) -> np.random.Generator:
    return np.random.default_rng(derive_seed(seed, purpose))
