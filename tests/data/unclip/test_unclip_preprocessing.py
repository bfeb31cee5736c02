"""Pairs for priors and decoder: one square in two sizes, one caption, and what stands for them."""

import io
import pickle

import numpy as np
import pytest
from PIL import Image

from dalle_cli.data.augment import clip_square
from dalle_cli.data.clip_tokenizer import own_clip_tokenizer
from dalle_cli.data.loader import collate
from dalle_cli.data.pictures.area import area_resize
from dalle_cli.data.shuffling import derive_seed
from dalle_cli.data.sources import Sample
from dalle_cli.data.tokenizer import Tokenizer
from dalle_cli.data.unclip.clip_embeddings import CaptionEmbedding, SampleEmbeddings
from dalle_cli.data.unclip.preprocessing import EmbeddingPreprocessing, UnclipPreprocessing

TOKENIZER = own_clip_tokenizer(Tokenizer([], "tokenizers"))
CAPTIONS = ["a", "bc", "a caption of many words"]


def picture() -> Image.Image:
    rng = np.random.default_rng(0)
    coarse = Image.fromarray(rng.integers(0, 256, (5, 8, 3), dtype=np.uint8))
    return coarse.resize((96, 60), Image.Resampling.BICUBIC)


def sample() -> Sample:
    file = io.BytesIO()
    picture().save(file, "PNG")
    return Sample("key", file.getvalue(), CAPTIONS)


def embedded_sample() -> Sample:
    captions = [
        CaptionEmbedding(
            np.arange(1, 3 + i), np.full(4, i, np.float32), np.full((2 + i, 3), i, np.float16)
        )
        for i in range(3)
    ]
    images = np.arange(12, dtype=np.float32).reshape(3, 4)
    return Sample("key", b"", CAPTIONS, embeddings=SampleEmbeddings(images, captions))


@pytest.mark.parametrize(("clip_size", "image_size"), [(32, 16), (16, 32), (32, 32)])
def test_decoder_and_clip_see_the_same_square(clip_size: int, image_size: int) -> None:
    example = UnclipPreprocessing(clip_size, 8, TOKENIZER, image_size)(sample(), None)
    square = clip_square(picture(), max(clip_size, image_size))
    assert example.pixels.tolist() == area_resize(square, image_size).tolist()
    if clip_size == image_size:
        assert example.clip_pixels is None
    else:
        assert example.clip_pixels is not None
        assert example.clip_pixels.tolist() == area_resize(square, clip_size).tolist()


def test_clip_sees_its_usual_square_where_it_is_the_larger() -> None:
    example = UnclipPreprocessing(32, 8, TOKENIZER, 16)(sample(), None)
    assert example.clip_pixels is not None
    assert example.clip_pixels.tolist() == clip_square(picture(), 32).tolist()


def test_training_cuts_random_squares_and_chooses_captions() -> None:
    preprocess = UnclipPreprocessing(32, 8, TOKENIZER)
    examples = [preprocess(sample(), seed) for seed in range(30)]
    assert len({example.pixels.tobytes() for example in examples}) > 20
    assert {example.caption for example in examples} == set(CAPTIONS)
    again = preprocess(sample(), 7)
    assert again.pixels.tobytes() == examples[7].pixels.tobytes()
    assert [example.is_cut for example in examples] == [
        example.caption == CAPTIONS[2] for example in examples
    ]


def test_squares_embedded_beforehand_are_those_that_training_cuts() -> None:
    crops = EmbeddingPreprocessing(32, 3)(sample(), 5)
    preprocess = UnclipPreprocessing(32, 8, TOKENIZER)
    seeds = [None, *(derive_seed(5, copy) for copy in range(3))]
    assert crops.tolist() == [preprocess(sample(), seed).pixels.tolist() for seed in seeds]


def test_embeddings_stand_for_the_centred_square_and_the_first_caption() -> None:
    example = UnclipPreprocessing(32, 8, TOKENIZER)(embedded_sample(), None)
    assert example.pixels.size == 0 and example.caption == "a"
    assert example.text_tokens is not None and example.embeddings is not None
    assert example.text_tokens.tolist() == [1, 2, 0, 0, 0, 0, 0, 0]
    assert example.embeddings.image.tolist() == [0, 1, 2, 3]
    assert example.embeddings.states.shape == (8, 3)


def test_training_chooses_among_embedded_copies_and_captions() -> None:
    preprocess = UnclipPreprocessing(32, 8, TOKENIZER)
    examples = [preprocess(embedded_sample(), seed) for seed in range(40)]
    firsts = {float(e.embeddings.image[0]) for e in examples if e.embeddings is not None}
    assert firsts == {4.0, 8.0} and {e.caption for e in examples} == set(CAPTIONS)
    for example in examples:
        assert example.embeddings is not None
        number = CAPTIONS.index(example.caption)
        assert example.embeddings.text.tolist() == [number] * 4
        assert example.embeddings.states[: 2 + number].tolist() == [[number] * 3] * (2 + number)
        assert not example.embeddings.states[2 + number :].any()


def test_batch_holds_both_squares_or_embeddings() -> None:
    decoder, prior = (UnclipPreprocessing(32, 8, TOKENIZER, size) for size in (16, None))
    pictures = collate([decoder(sample(), seed) for seed in range(3)], [0, 1, 2], bad=[])
    assert pictures.images.shape == (3, 3, 16, 16) and pictures.clip_images is not None
    assert pictures.clip_images.shape == (3, 3, 32, 32) and pictures.embeddings is None

    stored = collate([prior(embedded_sample(), seed) for seed in range(3)], [0, 1, 2], bad=[])
    assert stored.images.shape == (3, 3, 0, 0) and stored.clip_images is None
    assert stored.embeddings is not None and stored.embeddings.states.shape == (3, 8, 3)
    parts = list(stored.micro_batches(2, stored.embeddings.images.device))
    assert [len(part.embeddings.images) for part in parts if part.embeddings] == [2, 1]


def test_preprocessing_can_be_sent_to_another_process() -> None:
    preprocess = UnclipPreprocessing(32, 8, TOKENIZER, 16)
    sent = pickle.loads(pickle.dumps(preprocess))
    assert sent(sample(), 3).pixels.tolist() == preprocess(sample(), 3).pixels.tolist()
