"""Captioned toy scenes, and a checker that tells from a picture alone which scene it shows.

Text-to-image can be measured honestly on them: a share of the combinations of colour, shape, size and place is never
drawn for training, and a sample counts as right only when every attribute is. Level 1 has one object at one of nine
places, level 2 two objects and a relation. Knows nothing of models. Lengths are shares of a picture's side.
"""

import hashlib
import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
from PIL import Image, ImageDraw

COLOURS = {
    "red": (214, 38, 38),
    "orange": (250, 146, 30),
    "yellow": (246, 222, 60),
    "green": (38, 152, 66),
    "cyan": (86, 206, 226),
    "blue": (36, 74, 204),
    "purple": (142, 52, 172),
    "black": (26, 26, 30),
}
SHAPES = ("circle", "square", "triangle", "diamond", "cross", "ring")
RADII = {"small": 0.18, "large": 0.26}
LINES = {"top": 0.27, "": 0.5, "bottom": 0.73}
COLUMNS = {"left": 0.27, "": 0.5, "right": 0.73}
GROUND = ((255, 252, 246), (214, 224, 236))  # top and bottom of the ground's shading
POSITION_JITTER = 0.02
RADIUS_JITTER = 0.05  # relative
OVERSAMPLING = 8


@dataclass(frozen=True)
class Thing:
    """One object: what it is, and where its centre lies."""

    colour: str
    shape: str
    x: float
    y: float
    radius: float


@dataclass(frozen=True)
class Scene:
    """A caption and the things it speaks of. Two captions may describe the same things."""

    caption: str
    things: frozenset[Thing]


def scenes(level: int) -> list[Scene]:
    """List every scene of a level: 864 single objects (1), or 9,024 pairs of small objects in a relation (2)."""
    return list(_single_scenes() if level == 1 else _pair_scenes())


def _single_scenes() -> Iterator[Scene]:
    for colour, shape, size in itertools.product(COLOURS, SHAPES, RADII):
        for (line, y), (column, x) in itertools.product(LINES.items(), COLUMNS.items()):
            place = " ".join(filter(None, (line, column))) or "centre"
            side = "in" if place == "centre" else "on" if not line else "at"
            caption = f"a {size} {colour} {shape} {side} the {place}"
            yield Scene(caption, frozenset({Thing(colour, shape, x, y, RADII[size])}))


def _pair_scenes() -> Iterator[Scene]:
    looks = list(itertools.product(COLOURS, SHAPES))
    near, far, middle = 0.26, 0.74, 0.5
    relations = {
        "left of": ((near, middle), (far, middle)),
        "right of": ((far, middle), (near, middle)),
        "above": ((middle, near), (middle, far)),
        "below": ((middle, far), (middle, near)),
    }
    for first, second in itertools.permutations(looks, 2):
        for relation, (place_1, place_2) in relations.items():
            caption = f"a {' '.join(first)} {relation} a {' '.join(second)}"
            things = frozenset({Thing(*first, *place_1, 0.18), Thing(*second, *place_2, 0.18)})
            yield Scene(caption, things)


def is_unseen(scene: Scene, share: float) -> bool:
    """Say whether a scene belongs to the share of combinations that no training picture shows.

    Goes by what is drawn, so that two captions of one picture never fall on different sides; nor does a mirror image,
    which the dVAE's random flip would otherwise let into its training.
    """
    mirrored = (replace(thing, x=round(1 - thing.x, 6)) for thing in scene.things)
    key = min(_spelt(scene.things), _spelt(mirrored))
    digest = hashlib.sha256(key.encode()).digest()
    return int.from_bytes(digest[:8]) < share * 2**64


def _spelt(things: Iterable[Thing]) -> str:
    """Write things down, always in the same order."""
    return repr(
        sorted((thing.colour, thing.shape, thing.x, thing.y, thing.radius) for thing in things)
    )


def render(scene: Scene, side: int, rng: np.random.Generator | None = None) -> Image.Image:
    """Draw a scene as an RGB picture of side x side pixels; with rng, things are moved and scaled a little."""
    n_things = len(scene.things)
    moves = np.zeros((n_things, 3)) if rng is None else rng.uniform(-1, 1, (n_things, 3))
    return _draw_scene(scene, side, moves)


def _draw_scene(scene: Scene, side: int, moves: Sequence[Sequence[float]]) -> Image.Image:
    """moves, one for each thing: steps right, down and outwards, in units of the jitter constants."""
    canvas = _ground(side).resize((side * OVERSAMPLING,) * 2, Image.Resampling.NEAREST)
    pen = ImageDraw.Draw(canvas)
    for thing, (dx, dy, growth) in zip(
        sorted(scene.things, key=lambda t: (t.x, t.y)), moves, strict=True
    ):
        x, y = thing.x + dx * POSITION_JITTER, thing.y + dy * POSITION_JITTER
        radius = thing.radius * (1 + growth * RADIUS_JITTER)
        _draw(pen, thing, *(v * side * OVERSAMPLING for v in (x, y, radius)))
    return canvas.reduce(OVERSAMPLING)


@cache
def _ground(side: int) -> Image.Image:
    top, bottom = np.array(GROUND, dtype=np.float64)
    share = ((np.arange(side) + 0.5) / side)[:, None, None]
    shading = np.rint(top + share * (bottom - top)).astype(np.uint8)
    return Image.fromarray(np.broadcast_to(shading, (side, side, 3)).copy())


def _draw(pen: ImageDraw.ImageDraw, thing: Thing, x: float, y: float, r: float) -> None:
    """Draw one thing with its centre at x, y and its reach r, all in pixels."""
    fill = COLOURS[thing.colour]
    if thing.shape == "circle":
        pen.ellipse((x - r, y - r, x + r, y + r), fill=fill)
    elif thing.shape == "ring":
        pen.ellipse((x - r, y - r, x + r, y + r), outline=fill, width=round(0.42 * r))
    elif thing.shape == "square":
        pen.rectangle((x - 0.94 * r, y - 0.94 * r, x + 0.94 * r, y + 0.94 * r), fill=fill)
    elif thing.shape == "triangle":
        pen.polygon(((x, y - r), (x + r, y + 0.8 * r), (x - r, y + 0.8 * r)), fill=fill)
    elif thing.shape == "diamond":
        pen.polygon(((x, y - r), (x + 0.8 * r, y), (x, y + r), (x - 0.8 * r, y)), fill=fill)
    else:
        pen.rectangle((x - r, y - 0.32 * r, x + r, y + 0.32 * r), fill=fill)
        pen.rectangle((x - 0.32 * r, y - r, x + 0.32 * r, y + r), fill=fill)


class Recogniser:
    """Names the scene whose drawing, each thing where it belongs or shifted a little, lies nearest to a picture.

    Things of one scene never overlap, so a drawing's squared distance to a picture is the empty ground's plus what
    each thing, shifted as suits it best, adds or saves.
    """

    SHIFTS = tuple((dx, dy, 0.0) for dx in (-0.7, 0.0, 0.7) for dy in (-0.7, 0.0, 0.7))

    def __init__(self, level: int, side: int) -> None:
        """level as in `scenes`; side of the pictures in pixels."""
        self.side = side
        self._by_caption = {scene.caption: scene for scene in scenes(level)}
        self._scenes = list({scene.things: scene for scene in self._by_caption.values()}.values())
        self._things = list({thing: None for scene in self._scenes for thing in scene.things})
        place_of = {thing: i for i, thing in enumerate(self._things)}
        self._things_of = np.array(
            [[place_of[thing] for thing in scene.things] for scene in self._scenes]
        )

    def recognise(self, pictures: Iterable[Image.Image]) -> list[Scene]:
        """Name the nearest scene to each RGB picture."""
        flat = np.stack(
            [
                np.asarray(p.resize((self.side, self.side)), dtype=np.float32).ravel()
                for p in pictures
            ]
        )
        gain = np.min(
            [self._squared_distance(flat, shift) for shift in self.SHIFTS], axis=0
        )  # [pictures, things]
        nearest = gain[:, self._things_of].sum(axis=2).argmin(axis=1)
        return [self._scenes[i] for i in nearest]

    def _squared_distance(self, flat: np.ndarray, shift: tuple[float, float, float]) -> np.ndarray:
        """Distances [pictures, things] to each thing drawn alone, less those to the empty ground."""
        ground = np.asarray(_ground(self.side), dtype=np.float32).ravel()
        drawn = [
            _draw_scene(Scene("", frozenset({thing})), self.side, [shift]) for thing in self._things
        ]
        drawings = (
            np.stack([np.asarray(picture, dtype=np.float32).ravel() for picture in drawn]) - ground
        )
        return (drawings**2).sum(axis=1) - 2 * (flat - ground) @ drawings.T

    def accuracy(self, pictures: Iterable[Image.Image], captions: Iterable[str]) -> float:
        """Share of the pictures that show what their caption says, every attribute right."""
        found = self.recognise(pictures)
        wanted = [self._by_caption[caption] for caption in captions]
        return sum(f.things == w.things for f, w in zip(found, wanted, strict=True)) / len(wanted)
