"""`dalle demo`: the whole of DALL-E on toy scenes in minutes, by the same commands that a user would type.

Each command is printed before it runs. An interrupted demo goes on where it stopped.
"""

import json
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PIL import Image

from dalle_cli.console import Terminal
from dalle_cli.data.shapes import Recogniser
from dalle_cli.errors import DalleError
from dalle_cli.run_dir import RunDir
from dalle_cli.viz import labelled_grid, side_by_side

SAMPLES = 4  # of each prompt
GRID_PROMPTS = 8  # of each kind
DVAE_RECIPE, TRANSFORMER_RECIPE = "dvae/demo", "transformer/demo"
GROUPS = ("seen", "unseen")


def demo(folder: Path, n_pictures: int, overrides: dict[str, list[str]], terminal: Terminal) -> None:
    """Draw scenes, train both models, generate, and measure; writes grid.png and summary.json.

    overrides  further `--set` values for "dvae" and "transformer"
    """
    started = time.perf_counter()
    data, dvae, transformer = folder / "data", folder / "dvae", folder / "transformer"
    if clear_unless_finished(data, "shapes.json"):
        run(["data", "shapes", data, "--pictures", n_pictures], terminal)
    train = ["--data", data / "train"]
    run(["train-dvae", DVAE_RECIPE, *train, "--run", dvae, *_sets(overrides["dvae"])], terminal)
    own = ["--dvae", dvae, "--run", transformer]
    run(["train-transformer", TRANSFORMER_RECIPE, *train, *own, *_sets(overrides["transformer"])], terminal)
    for group in GROUPS:
        if clear_unless_finished(folder / group, "grid.png"):
            prompts = ["--prompts", data / f"{group}.txt", "-n", SAMPLES, "--out", folder / group]
            run(["generate", transformer, *prompts], terminal)
    accuracy = {group: caption_accuracy(folder / group, data) for group in GROUPS}
    draw_grid(folder)
    figures = last_validation(RunDir(dvae))
    summary = {
        "seconds": round(time.perf_counter() - started, 1),
        "dvae_psnr": round(figures["valid/psnr"], 2),
        "codes_used": int(figures["valid/codes_used"]),
        "caption_accuracy": {group: round(share, 4) for group, share in accuracy.items()},
    }
    (folder / "summary.json").write_text(json.dumps(summary, indent=1) + "\n")
    terminal.result(_text(folder, summary), summary)


def run(arguments: list[Any], terminal: Terminal) -> None:
    """Print and run one `dalle` command; raises DalleError with its exit code where it fails."""
    words = list(map(str, arguments))
    terminal.say(f"\n$ dalle {shlex.join(words)}")
    command = [sys.executable, "-m", "dalle_cli", *words, *(["--quiet"] if terminal.is_quiet else [])]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as child, _signals_left_to(child):
        code = child.wait()
    if code:
        error = DalleError(f"`dalle {words[0]}` did not finish", "run the same demo again to go on")
        error.exit_code = code if code > 0 else 128 - code
        raise error


@contextmanager
def _signals_left_to(child: subprocess.Popen) -> Iterator[None]:
    """Let a request to stop reach the command under way, which saves, and wait for it.

    Ctrl-C reaches the child by itself, as the terminal's whole process group.
    """
    before = {
        signal.SIGINT: signal.signal(signal.SIGINT, lambda number, frame: None),
        signal.SIGTERM: signal.signal(signal.SIGTERM, lambda number, frame: child.send_signal(number)),
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def clear_unless_finished(folder: Path, last_file: str) -> bool:
    """Remove a folder whose last file an interruption has left unwritten; say whether there is work to do."""
    if (folder / last_file).is_file():
        return False
    shutil.rmtree(folder, ignore_errors=True)
    return True


def caption_accuracy(folder: Path, data: Path) -> float:
    """Share of a `generate` folder's pictures that show what their caption says, every attribute right."""
    facts = json.loads((data / "shapes.json").read_text())
    records = [json.loads(line) for line in (folder / "manifest.jsonl").read_text().splitlines()]
    pictures = (Image.open(folder / record["file"]).convert("RGB") for record in records)
    return Recogniser(facts["level"], facts["side"]).accuracy(pictures, [record["caption"] for record in records])


def draw_grid(folder: Path) -> None:
    """Show the samples of a few prompts, combinations seen in training on the left, unseen ones on the right."""
    sheets = []
    for group in GROUPS:
        rows = []
        records = [json.loads(line) for line in (folder / group / "manifest.jsonl").read_text().splitlines()]
        captions = list(dict.fromkeys(record["caption"] for record in records))
        for caption in captions[:: max(len(captions) // GRID_PROMPTS, 1)][:GRID_PROMPTS]:
            own = [Image.open(folder / group / r["file"]).convert("RGB") for r in records if r["caption"] == caption]
            rows.append((f"{caption} ({group})", own))
        sheets.append(labelled_grid(rows))
    side_by_side(sheets).save(folder / "grid.png")


def last_validation(dvae: RunDir) -> dict[str, float]:
    """Read the last held-out figures of a run."""
    lines = [json.loads(line) for line in dvae.metrics.read_text().splitlines()]
    return next(line for line in reversed(lines) if "valid/psnr" in line)


def _sets(values: list[str]) -> list[str]:
    return [word for value in values for word in ("--set", value)]


def _text(folder: Path, summary: dict[str, Any]) -> str:
    accuracy = summary["caption_accuracy"]
    return "\n".join(
        [
            f"dVAE reconstruction     {summary['dvae_psnr']:.2f} dB, {summary['codes_used']} codes in use",
            f"caption accuracy        {accuracy['seen']:.1%} of combinations seen in training",
            f"                        {accuracy['unseen']:.1%} of combinations never seen",
            f"seconds                 {summary['seconds']:.0f}",
            f"pictures                {folder / 'grid.png'}",
        ]
    )
