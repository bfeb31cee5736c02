"""Variations, blends and projections: what stays and what changes along a row."""

import hashlib
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from toy_unclip import decoder_parts, sampler, scorer

from dalle_cli.data.augment import clip_square
from dalle_cli.data.pictures.area import area_resize
from dalle_cli.errors import UsageError
from dalle_cli.generation.unclip.latent_points import (
    blend_points,
    projection_points,
    text_blend_points,
    variation_points,
)
from dalle_cli.generation.unclip.painting import Painter
from dalle_cli.generation.unclip.picture_latents import PictureLatent, invert_latents, read_latent
from dalle_cli.models.unclip.embedding_codec import principal_components

SHAPE = (3, 16, 16)


@pytest.fixture
def latents(pairs: Path) -> list[PictureLatent]:
    files = sorted(pairs.glob("*.png"))[:3]
    return [read_latent(file, scorer(), image_size=16) for file in files]


@pytest.fixture
def starts() -> Tensor:
    return torch.randn(3, *SHAPE, generator=torch.Generator().manual_seed(1))


def test_a_picture_is_embedded_as_clip_sees_it_and_shown_as_the_decoder_does(pairs: Path) -> None:
    file = sorted(pairs.glob("*.png"))[0]
    latent = read_latent(file, scorer(), image_size=16)
    square = clip_square(Image.open(file).convert("RGB"), 32)
    torch.testing.assert_close(latent.embedding, scorer().embed_pictures([square])[0])
    assert latent.picture.tobytes() == area_resize(square, 16).tobytes()
    assert latent.checksum == hashlib.sha256(file.read_bytes()).hexdigest()
    assert latent.record == {"picture": str(file), "picture_sha256": latent.checksum}


@pytest.mark.parametrize("content", [b"", b"no picture", None], ids=["empty", "text", "missing"])
def test_what_is_no_picture_is_named(content: bytes | None, tmp_path: Path) -> None:
    file = tmp_path / "cat.png"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(UsageError, match=r"picture .*cat\.png"):
        read_latent(file, scorer(), image_size=16)


def test_variations_have_the_embedding_and_noise_of_their_own(
    latents: list[PictureLatent],
) -> None:
    one = sampler()
    points = variation_points(one, latents, n=4, seed=3, starts=None)
    assert [point.row for point in points] == [0] * 4 + [1] * 4 + [2] * 4
    for point in points:
        assert torch.equal(point.embedding, latents[point.row].embedding)
        assert torch.equal(point.start, one.start([point.key])[0])
    assert len({tuple(point.start.flatten().tolist()) for point in points}) == 12
    assert [point.facts["number"] for point in points[:4]] == [0, 1, 2, 3]
    first_two = variation_points(one, latents, n=2, seed=3, starts=None)
    assert torch.equal(first_two[2].start, points[4].start)


def test_inverted_variations_begin_alike_and_differ_on_the_way(
    latents: list[PictureLatent], starts: Tensor
) -> None:
    points = variation_points(sampler(), latents, n=2, seed=3, starts=starts)
    for point in points:
        assert torch.equal(point.start, starts[point.row])
    assert len({point.key for point in points}) == 6


def test_ends_of_a_blend_are_the_pictures(latents: list[PictureLatent], starts: Tensor) -> None:
    points = blend_points(latents[0], latents[1], starts[:2], n=5, seed=0)
    assert torch.equal(points[0].embedding, latents[0].embedding)
    assert torch.equal(points[0].start, starts[0])
    torch.testing.assert_close(points[-1].embedding, latents[1].embedding, rtol=0, atol=1e-6)
    torch.testing.assert_close(points[-1].start, starts[1], rtol=0, atol=1e-6)
    assert [point.facts["share"] for point in points] == [0, 0.25, 0.5, 0.75, 1]
    assert points[0].facts["to_picture"] == str(latents[1].file)
    middle = F.normalize(latents[0].embedding + latents[1].embedding, dim=0)
    torch.testing.assert_close(points[2].embedding, middle, rtol=0, atol=1e-5)


def test_a_blend_towards_a_text_keeps_the_noise_and_goes_part_of_the_way(
    latents: list[PictureLatent], starts: Tensor
) -> None:
    direction = F.normalize(torch.ones(32), dim=0)
    points = text_blend_points(latents[0], starts[0], direction, n=3, strength=0.5, seed=0)
    assert all(torch.equal(point.start, starts[0]) for point in points)
    assert torch.equal(points[0].embedding, latents[0].embedding)
    angles = [float((point.embedding @ direction).arccos()) for point in points]
    assert angles == pytest.approx([angles[0], 0.75 * angles[0], 0.5 * angles[0]], abs=1e-3)


def test_a_projection_onto_everything_is_the_picture_itself(
    latents: list[PictureLatent],
) -> None:
    embeddings = torch.randn(100, 32, generator=torch.Generator().manual_seed(0))
    basis = principal_components(embeddings, 32)
    points = projection_points(sampler(), latents, basis, counts=(1, 32), seed=0)
    assert [(point.row, point.facts["components"]) for point in points] == [
        (row, count) for row in range(3) for count in (1, 32)
    ]
    for few, all_of_them in zip(points[::2], points[1::2], strict=True):
        latent = latents[few.row]
        torch.testing.assert_close(all_of_them.embedding, latent.embedding, rtol=0, atol=1e-5)
        assert not torch.allclose(few.embedding, latent.embedding, atol=0.1)
        assert torch.equal(few.start, all_of_them.start)


def test_blends_of_a_decoder_that_predicts_no_noise_end_in_the_pictures(
    latents: list[PictureLatent],
) -> None:
    """Closed form: the noise is the faded picture, and the way back scales it up again."""
    one = sampler(decoder_parts(is_fresh=True), steps=6)
    starts = invert_latents(one, latents[:2], batch_size=1)
    points = blend_points(latents[0], latents[1], starts, n=3, seed=0)
    painted = list(Painter(one, scorer(), batch_size=2).with_eta(0.0).paint(points))
    for picture, latent in ((painted[0], latents[0]), (painted[-1], latents[1])):
        pairs = zip(picture.tobytes(), latent.picture.tobytes(), strict=True)
        assert max(abs(a - b) for a, b in pairs) <= 1


@pytest.mark.parametrize("batch_size", [1, 3])
def test_points_are_painted_in_order_whatever_the_batch(
    batch_size: int, latents: list[PictureLatent]
) -> None:
    one = sampler(steps=3)
    points = variation_points(one, latents, n=2, seed=0, starts=None)
    painted = list(Painter(one, scorer(), batch_size=batch_size).paint(points))
    for point, picture in zip(points, painted, strict=True):
        (alone,) = Painter(one, scorer(), batch_size=1).paint([point])
        pixels = zip(picture.tobytes(), alone.tobytes(), strict=True)
        assert max(abs(a - b) for a, b in pixels) <= 2
