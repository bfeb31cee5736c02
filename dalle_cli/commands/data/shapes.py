"""`dalle data shapes`: renders captioned toy scenes to train on and to measure with."""

import json
from pathlib import Path

import numpy as np

from dalle_cli.console import Terminal
from dalle_cli.data.images import to_png
from dalle_cli.data.rendered.shapes import Scene, is_unseen, render, scenes
from dalle_cli.storage.atomic import atomic_folder, make_folder, write_file
from dalle_cli.storage.run_dir import check_new_folder

PROMPTS = 200  # in each of the two lists


def run_data_shapes(
    folder: Path,
    terminal: Terminal,
    *,
    level: int,
    n_pictures: int,
    side: int,
    unseen_share: float,
    seed: int,
) -> None:
    """Write pictures and captions to train/, prompts to seen.txt and unseen.txt, and shapes.json.

    shapes.json records the arguments. An interrupted command leaves nothing in the folder.
    """
    check_new_folder(folder)
    everything = scenes(level)
    seen = [scene for scene in everything if not is_unseen(scene, unseen_share)]
    unseen = [scene for scene in everything if is_unseen(scene, unseen_share)]

    rng = np.random.default_rng(seed)
    facts = {
        "level": level,
        "side": side,
        "unseen_share": unseen_share,
        "pictures": n_pictures,
        "seed": seed,
    }
    with atomic_folder(folder) as staging:
        _write_pairs(staging / "train", seen, n_pictures=n_pictures, side=side, rng=rng)
        for name, group in (("seen", seen), ("unseen", unseen)):
            lines = [f"{caption}\n" for caption in _prompts(group, rng)]
            write_file(staging / f"{name}.txt", "".join(lines))
        write_file(staging / "shapes.json", json.dumps(facts, indent=1))

    pairs = folder / "train"
    combinations = f"{len(seen):,} combinations; {len(unseen):,} more are never rendered"
    terminal.say(f"{n_pictures:,} pictures of {combinations}")
    terminal.result(str(pairs), {"train": str(pairs), "seen": len(seen), "unseen": len(unseen)})


def _write_pairs(
    folder: Path, group: list[Scene], *, n_pictures: int, side: int, rng: np.random.Generator
) -> None:
    make_folder(folder)
    for i in range(n_pictures):
        scene = group[int(rng.integers(len(group)))]
        write_file(folder / f"{i:05d}.png", to_png(render(scene, side, rng=rng)))
        write_file(folder / f"{i:05d}.txt", scene.caption + "\n")


def _prompts(group: list[Scene], rng: np.random.Generator) -> list[str]:
    chosen = rng.permutation(len(group))[:PROMPTS]
    return [group[i].caption for i in sorted(chosen)]
