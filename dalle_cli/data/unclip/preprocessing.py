"""Preprocessing for what trains with a frozen CLIP: a square as CLIP sees it, and one caption.

Crops are those that CLIP itself trains on, and never flipped: captions may say left and right.
"""

from dataclasses import dataclass, replace

import numpy as np
from PIL import Image

from dalle_cli.data.augment import clip_crop, clip_square
from dalle_cli.data.clip_tokenizer import ClipTokenizer, frame
from dalle_cli.data.images import decode_image
from dalle_cli.data.pictures.area import area_resize
from dalle_cli.data.preprocessing import NO_PIXELS, Example
from dalle_cli.data.shuffling import derive_seed
from dalle_cli.data.sources import Sample
from dalle_cli.data.unclip.clip_embeddings import CaptionEmbedding, PairEmbeddings


@dataclass(frozen=True)
class UnclipPreprocessing:
    """Preprocessing for the priors and the decoder.

    clip_size  side of the squares that CLIP reads
    text_len   text slots of CLIP
    image_size  side of the decoder's pictures; None for a prior, which sees none
    """

    clip_size: int
    text_len: int
    tokenizer: ClipTokenizer
    image_size: int | None = None

    def __call__(self, sample: Sample, seed: int | None) -> Example:
        rng = None if seed is None else _generator(seed, "text")
        number = 0 if rng is None else int(rng.integers(len(sample.captions)))
        if sample.embeddings is not None:
            return self._embedded(sample, number, seed)

        caption = sample.captions[number]
        ids = self.tokenizer.encode(caption)
        text = Example(
            NO_PIXELS,
            caption,
            text_tokens=frame(
                ids,
                start_of_text=self.tokenizer.start_of_text,
                end_of_text=self.tokenizer.end_of_text,
                text_len=self.text_len,
            ),
            is_cut=len(ids) > self.text_len - 2,
        )
        return self._with_squares(text, sample.image, seed)

    def _with_squares(self, text: Example, picture: bytes, seed: int | None) -> Example:
        """Return an example with the square that both models see, each in its size."""
        image = decode_image(picture)
        own_size = self.image_size or self.clip_size
        larger = max(own_size, self.clip_size)
        square = (
            clip_square(image, larger)
            if seed is None
            else clip_crop(image, larger, rng=_generator(seed, "crop"))
        )
        pixels = area_resize(square, own_size)
        is_same = own_size == self.clip_size
        return replace(
            text,
            pixels=pixels,
            clip_pixels=None if is_same else area_resize(square, self.clip_size),
            is_enlarged=min(image.size) < larger,
        )

    def _embedded(self, sample: Sample, number: int, seed: int | None) -> Example:
        """Return an example of a sample that was embedded beforehand, of one of its crops."""
        assert sample.embeddings is not None
        images, captions = sample.embeddings
        crop = 0 if seed is None else int(_generator(seed, "crop").integers(1, len(images)))
        return Example(
            NO_PIXELS,
            sample.captions[number],
            text_tokens=self._padded(captions[number].tokens),
            embeddings=PairEmbeddings(
                images[crop], captions[number].embedding, self._states(captions[number])
            ),
        )

    def _padded(self, tokens: np.ndarray) -> np.ndarray:
        padded = np.zeros(self.text_len, dtype=np.int64)
        padded[: len(tokens)] = tokens
        return padded

    def _states(self, caption: CaptionEmbedding) -> np.ndarray:
        """Return the slots of a caption, padded with zeros: float32 [T, F]."""
        states = np.zeros((self.text_len, caption.states.shape[1]), np.float32)
        states[: len(caption.states)] = caption.states
        return states


@dataclass(frozen=True)
class EmbeddingPreprocessing:
    """Preprocessing for embedding pictures beforehand: the centred square, then random copies."""

    clip_size: int
    copies: int

    def __call__(self, sample: Sample, seed: int) -> np.ndarray:
        """Cut all squares: uint8 [C, H, W, 3].

        Copy k is the square that `UnclipPreprocessing` cuts with derive_seed(seed, k).
        """
        image = decode_image(sample.image)
        rngs = [_generator(derive_seed(seed, copy), "crop") for copy in range(self.copies)]
        crops = [clip_crop(image, self.clip_size, rng=rng) for rng in rngs]
        return np.stack([clip_square(image, self.clip_size), *crops])  # [C, H, W, 3]


def squares_for_both(
    picture: Image.Image, *, image_size: int, clip_size: int
) -> tuple[np.ndarray, np.ndarray]:
    """Cut the centred square out of a picture for decoder and CLIP, as for validation.

    Returns it in both sizes: uint8 [R, R, 3] each.
    """
    square = clip_square(picture, max(image_size, clip_size))
    return area_resize(square, image_size), area_resize(square, clip_size)


def _generator(seed: int, purpose: str) -> np.random.Generator:
    return np.random.default_rng(derive_seed(seed, purpose))
