"""Preprocessing of samples: decoded, cropped and, where the model reads text, tokenized and padded.

With a seed, preprocessing is random, as in training; without one it is deterministic, as in
validation. Knows nothing of batches, of where samples come from, or of what to do about bad ones.
"""

from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from dalle_cli.data.augment import (
    centre_crop,
    clip_crop,
    clip_square,
    dvae_crop,
    largest_dvae_side,
    largest_transformer_side,
    transformer_crop,
)
from dalle_cli.data.clip_tokenizer import frame, own_clip_tokenizer
from dalle_cli.data.images import decode_image, decode_reduced
from dalle_cli.data.shuffling import derive_seed
from dalle_cli.data.sources import Sample
from dalle_cli.data.tokenizer import Tokenizer
from dalle_cli.data.unclip.clip_embeddings import PairEmbeddings

NO_PIXELS = np.empty((0, 0, 3), np.uint8)


@dataclass(frozen=True)
class Example:
    """A preprocessed sample.

    pixels        uint8 [H, W, 3]; empty [0, 0, 3] if the picture was encoded beforehand
    text_tokens   int64 [T], the tokens of the caption; None if the model reads no text
    is_cut        whether the caption had more tokens than fit
    image_tokens  integers [I] if the picture came as tokens
    is_enlarged   whether the picture's short side was below the model's image size
    clip_pixels   uint8, the same square in the size that a frozen CLIP reads, if that is another
    embeddings    CLIP's of picture and caption, if they were embedded beforehand
    """

    pixels: np.ndarray
    caption: str = ""
    text_tokens: np.ndarray | None = None
    is_cut: bool = False
    image_tokens: np.ndarray | None = None
    is_enlarged: bool = False
    clip_pixels: np.ndarray | None = None
    embeddings: PairEmbeddings | None = None


class Preprocessing(Protocol):
    """A function from a sample to an example: random with a seed, deterministic without."""

    def __call__(self, sample: Sample, seed: int | None) -> Example: ...


@dataclass(frozen=True)
class DVAEPreprocessing:
    """Preprocessing for the dVAE, which sees pictures alone."""

    image_size: int

    def __call__(self, sample: Sample, seed: int | None) -> Example:
        size = self.image_size
        if seed is None:
            image = decode_image(sample.image)
            return Example(centre_crop(image, size), is_enlarged=min(image.size) < size)

        picture = decode_reduced(sample.image, largest_dvae_side(size))
        pixels = dvae_crop(picture, size, rng=_generator(seed, "crop"))
        return Example(pixels, is_enlarged=min(picture.size) < size)


@dataclass(frozen=True)
class TransformerPreprocessing:
    """Preprocessing for the transformer: a picture and one of its captions.

    The caption is cut to text_len - 1 tokens. If the picture was cropped and encoded beforehand,
    training chooses one of its random crops.
    """

    image_size: int
    text_len: int
    tokenizer: Tokenizer
    bpe_dropout: float
    caption_dropout: float

    def __call__(self, sample: Sample, seed: int | None) -> Example:
        if seed is None:
            return self._example(
                sample, sample.captions[0], dropout=0.0, crop_rng=None, text_rng=None
            )

        text_rng = _generator(seed, "text")
        caption = sample.captions[int(text_rng.integers(len(sample.captions)))]
        if text_rng.random() < self.caption_dropout:
            caption = ""
        return self._example(
            sample,
            caption,
            dropout=self.bpe_dropout,
            crop_rng=_generator(seed, "crop"),
            text_rng=text_rng,
        )

    def _example(
        self,
        sample: Sample,
        caption: str,
        *,
        dropout: float,
        crop_rng: np.random.Generator | None,
        text_rng: np.random.Generator | None,
    ) -> Example:
        tokens = self.tokenizer.encode(caption, dropout=dropout, rng=text_rng)
        text = Example(
            NO_PIXELS,
            caption,
            text_tokens=pad_tokens(tokens, self.text_len),
            is_cut=len(tokens) >= self.text_len,
        )

        crops = sample.image_tokens  # [C, I]
        if crops is not None:
            chosen = 0 if crop_rng is None else int(crop_rng.integers(1, len(crops)))
            return replace(text, image_tokens=crops[chosen])

        size = self.image_size
        if crop_rng is None:
            image = decode_image(sample.image)
            pixels, short_side = centre_crop(image, size), min(image.size)
        else:
            picture = decode_reduced(sample.image, largest_transformer_side(size))
            pixels, short_side = transformer_crop(picture, size, rng=crop_rng), min(picture.size)
        return replace(text, pixels=pixels, is_enlarged=short_side < size)


@dataclass(frozen=True)
class EncodingPreprocessing:
    """Preprocessing for encoding pictures beforehand: the centred crop, then random copies."""

    image_size: int
    copies: int

    def __call__(self, sample: Sample, seed: int) -> np.ndarray:
        """Cut all crops: uint8 [C, H, W, 3].

        Copy k is the crop that `TransformerPreprocessing` cuts with derive_seed(seed, k).
        """
        size = self.image_size
        picture = decode_reduced(sample.image, largest_transformer_side(size))
        whole = picture.image if picture.reduction == 1 else decode_image(sample.image)
        rngs = [_generator(derive_seed(seed, copy), "crop") for copy in range(self.copies)]
        crops = [transformer_crop(picture, size, rng=rng) for rng in rngs]
        return np.stack([centre_crop(whole, size), *crops])  # [C, H, W, 3]


@dataclass(frozen=True)
class ClipPreprocessing:
    """Preprocessing for CLIP: a picture and one of its captions, between start and end of text."""

    image_size: int
    text_len: int
    tokenizer: Tokenizer
    bpe_dropout: float

    def __call__(self, sample: Sample, seed: int | None) -> Example:
        image, size = decode_image(sample.image), self.image_size
        if seed is None:
            example = self._example(
                clip_square(image, size), sample.captions[0], dropout=0.0, rng=None
            )
        else:
            pixels = clip_crop(image, size, rng=_generator(seed, "crop"))
            rng = _generator(seed, "text")
            caption = sample.captions[int(rng.integers(len(sample.captions)))]
            example = self._example(pixels, caption, dropout=self.bpe_dropout, rng=rng)
        return replace(example, is_enlarged=min(image.size) < size)

    def _example(
        self, pixels: np.ndarray, caption: str, *, dropout: float, rng: np.random.Generator | None
    ) -> Example:
        ids = self.tokenizer.encode(caption, dropout=dropout, rng=rng)
        clip_tokenizer = own_clip_tokenizer(self.tokenizer)
        text_tokens = frame(
            ids,
            start_of_text=clip_tokenizer.start_of_text,
            end_of_text=clip_tokenizer.end_of_text,
            text_len=self.text_len,
        )
        return Example(
            pixels, caption, text_tokens=text_tokens, is_cut=len(ids) > self.text_len - 2
        )


def pad_tokens(tokens: list[int], text_len: int) -> np.ndarray:
    """Cut to text_len - 1 tokens and pad with -1: int64 [text_len]."""
    padded = np.full(text_len, -1, dtype=np.int64)
    kept = tokens[: text_len - 1]
    padded[: len(kept)] = kept
    return padded


def _generator(seed: int, purpose: str) -> np.random.Generator:
    return np.random.default_rng(derive_seed(seed, purpose))
