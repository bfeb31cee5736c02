"""A whole training run of `transformer/demo` on captions of 1 to 40 words: its peak memory.

Usage: long_run_memory.py N_UPDATES WORKERS

Validates, previews and saves after every 50 updates and after the last. What a long run takes
beyond a short one is what it has kept without need: freed pieces that serve no later tensor, and
kernels of sizes that do not come again. Seconds are those of the whole run.
"""

import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from measuring import report
from PIL import Image

from dalle_cli.commands.training.train_transformer import TransformerOptions, run_train_transformer
from dalle_cli.console import Terminal
from dalle_cli.recipe import load_recipe
from dalle_cli.storage.shipped import shipped_models
from dalle_cli.training.run import TrainOptions

N_PAIRS = 512
MOST_WORDS = 40
SIDE = 64  # of files; the dVAE's pictures are smaller
SETTINGS = {
    "model.text_len": 48,
    "runtime.report_every": 50,
    "runtime.validate_every": 50,
    "runtime.preview_every": 50,
    "runtime.save_every": 50,
}


def main(n_updates: int, workers: int) -> None:
    """Train a new run to its end, and report the time and the peak memory of this process."""
    settings = {**SETTINGS, "training.steps": n_updates, "runtime.workers": workers}
    recipe = load_recipe(
        "transformer/demo",
        [f"{key}={value}" for key, value in settings.items()],
        kind="transformer",
    )
    with tempfile.TemporaryDirectory() as folder:
        pairs = Path(folder, "pairs")
        write_pairs(pairs)
        options = TrainOptions(data=(str(pairs),), run=Path(folder, "run"), device="cpu")
        dvae = TransformerOptions(dvae=shipped_models()["shapes"])

        start = time.perf_counter()
        run_train_transformer(recipe, options, dvae, Terminal(quiet=True))
        report([time.perf_counter() - start])


def write_pairs(folder: Path) -> None:
    """Write pictures of noise, and captions of made-up words."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    words = ["".join(rng.choice(list("abcdefgh"), 4)) for _ in range(50)]
    for number in range(N_PAIRS):
        pixels = rng.integers(256, size=(SIDE, SIDE, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:03d}.png")
        caption = " ".join(rng.choice(words, rng.integers(1, MOST_WORDS + 1)))
        (folder / f"{number:03d}.txt").write_text(caption)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
