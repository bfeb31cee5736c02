"""`dalle data shapes`: renders captioned toy scenes to train on and to measure with."""

import json
from pathlib import Path

import numpy as np

from dalle_cli.console import Terminal
from dalle_cli.data.shapes import Scene, is_unseen, render, scenes
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

    shapes.json records the arguments.
    """
    check_new_folder(folder)
    everything = scenes(level)
    seen = [scene for scene in everything if not is_unseen(scene, unseen_share)]
    unseen = [scene for scene in everything if is_unseen(scene, unseen_share)]

    rng = np.random.default_rng(seed)
    pairs = folder / "train"
    pairs.mkdir(parents=True)
    for i in range(n_pictures):
        scene = seen[int(rng.integers(len(seen)))]
        render(scene, side, rng=rng).save(pairs / f"{i:05d}.png")
        (pairs / f"{i:05d}.txt").write_text(scene.caption + "\n")
    for name, group in (("seen", seen), ("unseen", unseen)):
        lines = [f"{caption}\n" for caption in _prompts(group, rng)]
        (folder / f"{name}.txt").write_text("".join(lines))

    facts = {
        "level": level,
        "side": side,
        "unseen_share": unseen_share,
        "pictures": n_pictures,
        "seed": seed,
    }
    (folder / "shapes.json").write_text(json.dumps(facts, indent=1))

    combinations = f"{len(seen):,} combinations; {len(unseen):,} more are never rendered"
    terminal.say(f"{n_pictures:,} pictures of {combinations}")
    terminal.result(str(pairs), {"train": str(pairs), "seen": len(seen), "unseen": len(unseen)})


def _prompts(group: list[Scene], rng: np.random.Generator) -> list[str]:
    chosen = rng.permutation(len(group))[:PROMPTS]
    return [group[i].caption for i in sorted(chosen)]
