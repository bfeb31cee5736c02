"""The folder of painted points: every file, the manifest, and the rows of the grid."""

import json
from pathlib import Path

import torch
from PIL import Image

from dalle_cli.generation.unclip.latent_points import LatentPoint
from dalle_cli.generation.unclip.noise import NoiseKey
from dalle_cli.generation.unclip.point_folder import write_points
from dalle_cli.viz import GAP, GRID_PICTURES, MIN_TILE, TEXT_HEIGHT


def point(row: int, number: int) -> LatentPoint:
    key = NoiseKey(0, f"picture {row}", number)
    return LatentPoint(row, torch.ones(2), torch.ones(3, 4, 4), key, {"number": number})


def square(level: int) -> Image.Image:
    return Image.new("RGB", (MIN_TILE, MIN_TILE), (level, level, level))


def test_pictures_manifest_and_grid_are_written(tmp_path: Path) -> None:
    points = [point(row, number) for row in range(2) for number in range(3)]
    rows = [("cat", [square(0)]), ("dog", [square(10)])]
    advanced: list[None] = []
    names = write_points(
        tmp_path,
        points,
        (square(100 + i) for i in range(6)),
        rows=rows,
        record={"seed": 4},
        advance=lambda: advanced.append(None),
    )
    assert names == [f"{i:04d}.png" for i in range(6)] and len(advanced) == 6
    for i, name in enumerate(names):
        assert Image.open(tmp_path / name).getpixel((5, 5)) == (100 + i,) * 3
    lines = [json.loads(line) for line in (tmp_path / "manifest.jsonl").read_text().splitlines()]
    assert lines == [{"file": name, "number": i % 3, "seed": 4} for i, name in enumerate(names)]

    grid = Image.open(tmp_path / "grid.png")
    step = MIN_TILE + GAP
    for row, levels in enumerate([(0, 100, 101, 102), (10, 103, 104, 105)]):
        top = row * (step + TEXT_HEIGHT) + TEXT_HEIGHT + GAP + MIN_TILE // 2
        for column, level in enumerate(levels):
            assert grid.getpixel((GAP + column * step + MIN_TILE // 2, top)) == (level,) * 3
    assert rows[0][1] == [rows[0][1][0]]  # what was given is left as it was


def test_a_grid_of_many_stops_where_it_would_be_too_large(tmp_path: Path) -> None:
    n = GRID_PICTURES + 30
    small = Image.new("RGB", (2, 2))
    points = [point(i, 0) for i in range(n)]
    rows = [(f"picture {i}", [small]) for i in range(n)]
    names = write_points(
        tmp_path, points, (small for _ in range(n)), rows=rows, record={}, advance=lambda: None
    )
    assert len(names) == n
    with Image.open(tmp_path / "grid.png") as grid:
        height = grid.height
    assert height == GAP + GRID_PICTURES * (MIN_TILE + GAP + TEXT_HEIGHT)
