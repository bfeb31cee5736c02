"""Toy scenes: how many there are, which stay unseen, and that the recogniser is not fooled."""

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from PIL import Image, ImageChops

from dalle_cli.data.rendered.shapes import (
    COLOURS,
    POSITION_JITTER,
    RADIUS_JITTER,
    Recogniser,
    Scene,
    is_unseen,
    render,
    scenes,
)

SIDE = 32


@pytest.fixture(scope="module", params=[1, 2])
def level(request: pytest.FixtureRequest) -> int:
    return request.param


@pytest.fixture(scope="module")
def recogniser(level: int) -> Recogniser:
    return Recogniser(level, SIDE)


def some_scenes(level: int, n: int) -> list[Scene]:
    everything = scenes(level)
    return [
        everything[i]
        for i in np.random.default_rng(level).choice(len(everything), n, replace=False)
    ]


def mirrored(caption: str) -> str:
    """Say the same of a level-2 scene the other way round."""
    inverse = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}
    relation = next(relation for relation in inverse if f" {relation} " in caption)
    first, second = caption.split(f" {relation} ")
    return f"{second} {inverse[relation]} {first}"


@pytest.mark.parametrize(("level", "captions", "drawings"), [(1, 864, 864), (2, 9024, 4512)])
def test_captions_and_drawings_have_the_stated_numbers(
    level: int, captions: int, drawings: int
) -> None:
    everything = scenes(level)
    assert len({scene.caption for scene in everything}) == len(everything) == captions
    assert len({scene.things for scene in everything}) == drawings


def test_single_captions_name_every_attribute_in_plain_words() -> None:
    captions = {scene.caption for scene in scenes(1)}
    assert {
        "a small red circle at the top left",
        "a large black ring in the centre",
        "a small blue cross on the left",
        "a large yellow diamond at the bottom",
    } <= captions


def test_mirrored_captions_show_the_same_things_and_fall_on_one_side() -> None:
    by_caption = {scene.caption: scene for scene in scenes(2)}
    for caption, scene in by_caption.items():
        other = by_caption[mirrored(caption)]
        assert other.things == scene.things
        assert is_unseen(other, 0.2) == is_unseen(scene, 0.2)


def test_flipped_picture_is_on_the_side_of_the_other(level: int) -> None:
    """The dVAE flips half of its training pictures."""
    by_things = {scene.things: scene for scene in scenes(level)}
    n_flipped = 0
    for scene in scenes(level):
        flipped = frozenset(replace(thing, x=round(1 - thing.x, 6)) for thing in scene.things)
        n_flipped += flipped != scene.things
        assert is_unseen(by_things[flipped], 0.2) == is_unseen(scene, 0.2)
    assert n_flipped > len(scenes(level)) / 3


@pytest.mark.parametrize("share", [0.1, 0.3])
def test_unseen_share_is_about_the_one_asked_for(level: int, share: float) -> None:
    drawings = {scene.things: scene for scene in scenes(level)}.values()
    found = sum(is_unseen(scene, share) for scene in drawings) / len(drawings)
    assert abs(found - share) < 4 * (share * (1 - share) / len(drawings)) ** 0.5


def test_a_larger_unseen_share_holds_the_smaller_one(level: int) -> None:
    everything = scenes(level)
    small, large = (
        {scene.caption for scene in everything if is_unseen(scene, share)} for share in (0.1, 0.3)
    )
    assert small < large
    assert not any(is_unseen(scene, 0.0) for scene in everything)
    assert all(is_unseen(scene, 1.0) for scene in everything)


def test_every_colour_shape_and_place_is_seen_in_training(level: int) -> None:
    seen = [scene for scene in scenes(level) if not is_unseen(scene, 0.2)]
    for attribute in ("colour", "shape", "x", "y", "radius"):
        everywhere, in_training = (
            {getattr(thing, attribute) for scene in some for thing in scene.things}
            for some in (scenes(level), seen)
        )
        assert in_training == everywhere


def test_rendering_is_deterministic_and_jitter_is_the_generators(level: int) -> None:
    scene = some_scenes(level, 1)[0]
    assert render(scene, SIDE).tobytes() == render(scene, SIDE).tobytes()
    jittered = [
        render(scene, SIDE, rng=np.random.default_rng(seed)).tobytes() for seed in (0, 0, 1)
    ]
    assert jittered[0] == jittered[1] != jittered[2]
    assert render(scene, SIDE).tobytes() not in jittered


def test_rendering_does_not_depend_on_the_order_of_the_things() -> None:
    scene = some_scenes(2, 1)[0]
    first, second = sorted(scene.things, key=repr)
    pictures = [
        render(Scene("", frozenset(pair)), SIDE, rng=np.random.default_rng(0)).tobytes()
        for pair in ((first, second), (second, first))
    ]
    assert pictures[0] == pictures[1]


@pytest.mark.parametrize("colour", COLOURS)
def test_the_middle_of_a_square_has_its_colour(colour: str) -> None:
    scene = next(s for s in scenes(1) if s.caption == f"a large {colour} square in the centre")
    assert render(scene, SIDE).getpixel((SIDE // 2, SIDE // 2)) == COLOURS[colour]


def test_things_lie_where_the_caption_says() -> None:
    ground = render(Scene("", frozenset()), SIDE)
    for scene in scenes(1):
        box = ImageChops.difference(render(scene, SIDE), ground).getbbox()
        centre = ((box[0] + box[2]) / 2 / SIDE, (box[1] + box[3]) / 2 / SIDE)
        for (low, high), position in zip(
            (("left", "right"), ("top", "bottom")), centre, strict=True
        ):
            words = scene.caption.split(" the ")[1].split()
            expected = 0.25 if low in words else 0.75 if high in words else 0.5
            assert abs(position - expected) < 0.06


def test_things_of_one_scene_never_share_a_pixel_even_when_moved_as_far_as_can_be() -> None:
    for scene in scenes(2):
        reach = []
        for thing in scene.things:
            radius = thing.radius * (1 + RADIUS_JITTER)
            spans = [
                (centre - POSITION_JITTER - radius, centre + POSITION_JITTER + radius)
                for centre in (thing.x, thing.y)
            ]
            reach.append([(int(low * SIDE), int(high * SIDE)) for low, high in spans])
        is_apart = [a[1] < b[0] or b[1] < a[0] for a, b in zip(*reach, strict=True)]
        assert any(is_apart)
        assert all(low >= 0 and high < SIDE for spans in reach for low, high in spans)


class Extreme:
    """Stands for a generator that draws nothing but the two ends of the range."""

    def __init__(self, seed: int) -> None:
        self._rng = np.random.default_rng(seed)

    def uniform(self, low: float, high: float, size: tuple[int, int]) -> np.ndarray:
        return np.where(self._rng.integers(2, size=size) == 1, high, low).astype(float)


def spoil(picture: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Blur and add noise, as a discrete VAE would."""
    pixels = np.asarray(picture, dtype=float)
    blurred = (pixels + np.roll(pixels, 1, axis=0) + np.roll(pixels, 1, axis=1)) / 3
    return Image.fromarray(
        (blurred + rng.normal(0, 12, pixels.shape)).clip(0, 255).astype(np.uint8)
    )


@pytest.fixture(scope="module")
def share_named(level: int, recogniser: Recogniser) -> dict[str, float]:
    """Share of pictures named right, by what was done to them; all at once, which is faster."""
    shown, rng = some_scenes(level, 300), np.random.default_rng(0)
    pictures = {
        "jittered": [render(scene, SIDE, rng=rng) for scene in shown],
        "extreme": [render(scene, SIDE, rng=Extreme(i)) for i, scene in enumerate(shown)],
        "spoilt": [spoil(render(scene, SIDE, rng=rng), rng) for scene in shown],
        "larger": [render(scene, 2 * SIDE, rng=rng) for scene in shown],
    }
    found = iter(recogniser.recognise([picture for kind in pictures.values() for picture in kind]))
    return {
        kind: sum(next(found).things == scene.things for scene in shown) / len(shown)
        for kind in pictures
    }


def test_recogniser_names_every_jittered_drawing(share_named: dict[str, float]) -> None:
    assert share_named["jittered"] == 1


def test_recogniser_names_every_drawing_moved_and_scaled_as_far_as_can_be(
    share_named: dict[str, float],
) -> None:
    assert share_named["extreme"] == 1


def test_recogniser_forgives_what_a_dvae_does_to_a_picture(share_named: dict[str, float]) -> None:
    assert share_named["spoilt"] > 0.95


def test_recogniser_takes_pictures_of_another_size(share_named: dict[str, float]) -> None:
    assert share_named["larger"] == 1


def test_accuracy_counts_both_captions_of_a_drawing() -> None:
    shown = some_scenes(2, 20)
    pictures = [render(scene, SIDE) for scene in shown]
    assert Recogniser(2, SIDE).accuracy(pictures, [mirrored(scene.caption) for scene in shown]) == 1


@pytest.mark.thorough
def test_one_wrong_attribute_is_wrong(level: int, recogniser: Recogniser) -> None:
    """Every caption that differs by one word, or by one more or less, from that of the picture."""
    shown = some_scenes(level, 5)
    captions = {frozenset(enumerate(scene.caption.split())): scene for scene in scenes(level)}
    pairs = [
        (scene, other)
        for scene, (words, other) in product(shown, captions.items())
        if len(words ^ set(enumerate(scene.caption.split()))) <= 2 and other.things != scene.things
    ]
    assert len(pairs) > 50
    pictures = {scene.caption: render(scene, SIDE, rng=np.random.default_rng(0)) for scene in shown}
    assert (
        recogniser.accuracy(
            [pictures[scene.caption] for scene, _ in pairs], [o.caption for _, o in pairs]
        )
        == 0
    )


def test_accuracy_is_the_share_of_right_pictures() -> None:
    shown = some_scenes(2, 8)
    captions = [scene.caption for scene in shown]
    wrong = captions[1:4] + captions[:1] + captions[4:]
    assert Recogniser(2, SIDE).accuracy([render(scene, SIDE) for scene in shown], wrong) == 0.5


def test_a_picture_of_nothing_is_right_for_one_drawing_at_most() -> None:
    everything = scenes(2)
    empty, grey = render(Scene("", frozenset()), SIDE), Image.new("RGB", (SIDE, SIDE), "grey")
    for found in Recogniser(2, SIDE).recognise([empty, grey]):
        assert (
            sum(found.things == scene.things for scene in everything) == 2
        )  # its two captions of 9,024
