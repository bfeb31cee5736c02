"""Captioned toy scenes, and a recogniser that infers from a picture alone which scene it shows.

They measure text-to-image generation honestly: a share of the combinations of colour, shape, size
and place is never rendered for training, and a picture counts as right only if every attribute is.
Level 1 has one object at one of nine places, level 2 two objects and a relation. Knows nothing of
models. Lengths are fractions of the side of a picture.
"""

import hashlib
import itertools
from collections.abc import Iterable, Iterator
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
    """One object: its looks, the coordinates of its centre, and its radius."""

    colour: str
    shape: str
    x: float
    y: float
    radius: float


@dataclass(frozen=True)
class Scene:
    """A caption and the things it describes. Two captions may describe the same things."""

    caption: str
    things: frozenset[Thing]


def scenes(level: int) -> list[Scene]:
    """List all scenes of a level: 864 single objects (1) or 9,024 pairs of small objects (2)."""
    return list(_single_scenes() if level == 1 else _pair_scenes())


def _single_scenes() -> Iterator[Scene]:
    for colour, shape, size in itertools.product(COLOURS, SHAPES, RADII):
        for (line, y), (column, x) in itertools.product(LINES.items(), COLUMNS.items()):
            place = " ".join(filter(None, (line, column))) or "centre"
            side = "in" if place == "centre" else "on" if not line else "at"
            caption = f"a {size} {colour} {shape} {side} the {place}"
            thing = Thing(colour, shape, x=x, y=y, radius=RADII[size])
            yield Scene(caption, frozenset({thing}))


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
        for relation, places in relations.items():
            caption = f"a {' '.join(first)} {relation} a {' '.join(second)}"
            things = frozenset(
                Thing(*look, x=x, y=y, radius=RADII["small"])
                for look, (x, y) in zip((first, second), places, strict=True)
            )
            yield Scene(caption, things)


def is_unseen(scene: Scene, share: float) -> bool:
    """Return whether a scene belongs to the share of combinations that no training picture shows.

    Depends on what is rendered, so that two captions of one picture never fall on different sides;
    nor do mirror images, which the dVAE's random flip would otherwise let into its training.
    """
    mirrored = (replace(thing, x=round(1 - thing.x, 6)) for thing in scene.things)
    key = min(_spelling(scene.things), _spelling(mirrored))
    digest = hashlib.sha256(key.encode()).digest()
    return int.from_bytes(digest[:8]) < share * 2**64


def _spelling(things: Iterable[Thing]) -> str:
    """Write things as text, always in the same order."""
    return repr(
        sorted((thing.colour, thing.shape, thing.x, thing.y, thing.radius) for thing in things)
    )


def render(scene: Scene, side: int, *, rng: np.random.Generator | None = None) -> Image.Image:
    """Render a scene as an RGB picture of side x side pixels; with rng, things are jittered."""
    n_things = len(scene.things)
    moves = np.zeros((n_things, 3)) if rng is None else rng.uniform(-1, 1, (n_things, 3))
    return _render(scene, side, moves)


def _render(scene: Scene, side: int, moves: np.ndarray) -> Image.Image:
    """Render a scene whose things are moved.

    moves  float64 [things, 3], things sorted by x, y: shifts to the right, down and in radius, in
           units of the jitter constants
    """
    canvas = _ground(side).resize((side * OVERSAMPLING,) * 2, Image.Resampling.NEAREST)
    pen = ImageDraw.Draw(canvas)
    things = sorted(scene.things, key=lambda thing: (thing.x, thing.y))

    for thing, (dx, dy, growth) in zip(things, moves, strict=True):
        x, y = thing.x + dx * POSITION_JITTER, thing.y + dy * POSITION_JITTER
        radius = thing.radius * (1 + growth * RADIUS_JITTER)
        x, y, radius = (length * side * OVERSAMPLING for length in (x, y, radius))
        _render_thing(pen, thing, x=x, y=y, r=radius)

    return canvas.reduce(OVERSAMPLING)


@cache
def _ground(side: int) -> Image.Image:
    top, bottom = np.array(GROUND, dtype=np.float64)
    share = ((np.arange(side) + 0.5) / side)[:, None, None]  # [side, 1, 1]
    shading = np.rint(top + share * (bottom - top)).astype(np.uint8)  # [side, 1, 3]
    return Image.fromarray(np.broadcast_to(shading, (side, side, 3)).copy())


def _render_thing(pen: ImageDraw.ImageDraw, thing: Thing, *, x: float, y: float, r: float) -> None:
    """Render one thing with its centre at x, y and its radius r, all in pixels."""
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
    else:  # a cross
        pen.rectangle((x - r, y - 0.32 * r, x + r, y + 0.32 * r), fill=fill)
        pen.rectangle((x - 0.32 * r, y - r, x + 0.32 * r, y + r), fill=fill)


class Recogniser:
    """Nearest-neighbour recogniser of toy scenes, which tolerates small shifts of each thing.

    The things of a scene never overlap, so the squared distance of its rendering to a picture is
    that of the empty ground plus what each thing, at its best shift, adds or saves.
    """

    SHIFTS = tuple((dx, dy, 0.0) for dx in (-0.7, 0.0, 0.7) for dy in (-0.7, 0.0, 0.7))

    def __init__(self, level: int, side: int) -> None:
        """Prepare for the scenes of a level (see `scenes`), compared at side x side pixels."""
        self.side = side
        self._by_caption = {scene.caption: scene for scene in scenes(level)}
        self._scenes = list({scene.things: scene for scene in self._by_caption.values()}.values())
        self._things = list({thing: None for scene in self._scenes for thing in scene.things})

        index_of = {thing: i for i, thing in enumerate(self._things)}
        self._things_of = np.array(
            [[index_of[thing] for thing in scene.things] for scene in self._scenes]
        )  # [scenes, things of a scene]

    def recognise(self, pictures: Iterable[Image.Image]) -> list[Scene]:
        """Return the nearest scene to each RGB picture."""
        resized = [picture.resize((self.side, self.side)) for picture in pictures]
        pixels = np.stack([_flat_pixels(picture) for picture in resized])  # [pictures, values]

        distances = [self._squared_distances(pixels, shift) for shift in self.SHIFTS]
        gains = np.min(distances, axis=0)  # [pictures, things]
        nearest = gains[:, self._things_of].sum(axis=2).argmin(axis=1)  # [pictures]
        return [self._scenes[i] for i in nearest]

    def _squared_distances(
        self, pixels: np.ndarray, shift: tuple[float, float, float]
    ) -> np.ndarray:
        """Compute distances [pictures, things] to each thing alone, less those to the ground."""
        ground = _flat_pixels(_ground(self.side))
        single = [Scene("", frozenset({thing})) for thing in self._things]
        rendered = [_flat_pixels(_render(scene, self.side, np.array([shift]))) for scene in single]
        things = np.stack(rendered) - ground  # [things, values]
        return (things**2).sum(axis=1) - 2 * (pixels - ground) @ things.T

    def accuracy(self, pictures: Iterable[Image.Image], captions: Iterable[str]) -> float:
        """Return the share of pictures that show what their caption says, in every attribute."""
        found = self.recognise(pictures)
        wanted = [self._by_caption[caption] for caption in captions]
        return sum(f.things == w.things for f, w in zip(found, wanted, strict=True)) / len(wanted)


def _flat_pixels(picture: Image.Image) -> np.ndarray:
    return np.asarray(picture, dtype=np.float32).ravel()
