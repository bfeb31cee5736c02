"""Shards of embeddings: they give back what was written, each caption once, and tell damage."""

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from dalle_cli.data.images import BadSample
from dalle_cli.data.unclip.clip_embeddings import CaptionEmbedding, SampleEmbeddings
from dalle_cli.data.unclip.embedding_shards import (
    ClipEncoding,
    EmbeddedSample,
    EmbeddingShard,
    embedding_shard_path,
    is_embedded,
    read_embedding_record,
    write_embedding_record,
    write_embedding_shard,
)
from dalle_cli.errors import DalleError
from dalle_cli.storage.run_dir import EMBEDDINGS

NO_CHECKSUMS = np.empty((0, 32), np.uint8)
CAPTIONS = [["a\nb"], ["one", "two"], ["one"], ["猫 ☃"]]
ENCODING = ClipEncoding(
    clip="abc", precision="fp32", d_embed=4, d_text=3, text_len=6, text_vocab_size=50_000,
    copies=2, square=1, decoding=2,
)  # fmt: skip


def embedded_caption(caption: str) -> CaptionEmbedding:
    rng = np.random.default_rng(len(caption))
    length = min(len(caption), 6)
    return CaptionEmbedding(
        rng.integers(0, 50_000, length),
        rng.standard_normal(4).astype(np.float32),
        rng.standard_normal((length, 3)).astype(np.float16),
    )


def made(n: int) -> list[EmbeddedSample]:
    rng = np.random.default_rng(n)
    return [
        EmbeddedSample(
            f"key {i}",
            CAPTIONS[i % 4],
            SampleEmbeddings(
                rng.standard_normal((3, 4)).astype(np.float32),
                [embedded_caption(caption) for caption in CAPTIONS[i % 4]],
            ),
        )
        for i in range(n)
    ]


def write(path: Path, n: int = 7) -> list[EmbeddedSample]:
    samples = made(n)
    write_embedding_shard(
        path, ENCODING, samples=samples, bad=[("key", "reason")], checksums=NO_CHECKSUMS
    )
    return samples


def test_shard_gives_back_what_was_written(tmp_path: Path) -> None:
    samples = write(tmp_path / "shard")
    shard = EmbeddingShard(tmp_path / "shard", ENCODING)
    assert len(shard) == 7 and shard.bad == [("key", "reason")]
    for place, sample in enumerate(samples):
        assert shard.text(place) == (sample.key, sample.captions)
        images, captions = shard.embeddings(place)
        assert images.dtype == np.float32 and images.tolist() == sample.embeddings.images.tolist()
        for found, expected in zip(captions, sample.embeddings.captions, strict=True):
            assert found.states.dtype == np.float16 and found.tokens.dtype == np.int64
            for left, right in zip(found, expected, strict=True):
                assert left.tolist() == right.tolist()


def test_captions_that_repeat_are_stored_once(tmp_path: Path) -> None:
    write(tmp_path / "shard", 40)
    tensors = load_file(tmp_path / "shard")
    assert len(tensors["text_embeddings"]) == 4 and len(tensors["caption_rows"]) == 50
    assert len(tensors["text_states"]) == sum(map(len, ("a\nb", "one", "two", "猫 ☃")))


def test_record_completes_a_folder_and_hashes_its_shards(tmp_path: Path) -> None:
    write(embedding_shard_path(tmp_path, 0), 3)
    with pytest.raises(DalleError, match="encoding was not finished"):
        is_embedded(tmp_path)
    problems = [("elsewhere", "picture without caption")]
    written = write_embedding_record(tmp_path, ENCODING, n_shards=1, problems=problems, n_lost=2)
    assert is_embedded(tmp_path) and not is_embedded(tmp_path.parent)
    record = read_embedding_record(tmp_path)
    assert record == written and record.encoding == ENCODING
    assert (record.samples, record.lost, record.bad) == (3, 2, [*problems, ("key", "reason")])

    write(embedding_shard_path(tmp_path, 0), 2)
    again = write_embedding_record(tmp_path, ENCODING, n_shards=1, problems=problems, n_lost=2)
    assert again.fingerprint() != record.fingerprint()


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"samples": 3}'])
def test_damaged_record_is_told(text: str, tmp_path: Path) -> None:
    (tmp_path / EMBEDDINGS).write_text(text)
    with pytest.raises(DalleError, match=r"embeddings\.json is damaged"):
        read_embedding_record(tmp_path)


@pytest.mark.parametrize(
    ("changes", "told"),
    [({"d_embed": 5}, "instead of F32"), ({"d_text": 2}, "F16"), ({"copies": 1}, "F32")],
)
def test_shard_of_another_encoding_is_refused(
    changes: dict[str, int], told: str, tmp_path: Path
) -> None:
    write(tmp_path / "shard")
    with pytest.raises(DalleError, match=told):
        EmbeddingShard(tmp_path / "shard", ENCODING.model_copy(update=changes))


@pytest.mark.parametrize("content", [b"", b"\0" * 100, b"\x08\0\0\0\0\0\0\0{}      "])
def test_what_is_no_shard_is_told(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "shard").write_bytes(content)
    with pytest.raises(DalleError, match="is not a shard of CLIP embeddings"):
        EmbeddingShard(tmp_path / "shard", ENCODING)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("caption_rows", -1),
        ("caption_rows", 99),
        ("caption_ends", 10**12),
        ("slot_ends", -5),
        ("text_tokens", 50_000),
        ("text_tokens", -1),
        ("text_embeddings", np.nan),
        ("text_states", np.inf),
        ("image_embeddings", np.nan),
    ],
)
def test_damaged_numbers_make_a_bad_sample(name: str, value: float, tmp_path: Path) -> None:
    write(tmp_path / "shard", 2)
    tensors = load_file(tmp_path / "shard")
    tensors[name] = tensors[name].copy()
    tensors[name].flat[0] = value
    save_file(tensors, tmp_path / "shard", metadata={"bad": json.dumps([])})
    with pytest.raises(BadSample, match="damaged embeddings"):
        EmbeddingShard(tmp_path / "shard", ENCODING).embeddings(0)
