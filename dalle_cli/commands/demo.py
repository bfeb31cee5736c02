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
from dalle_cli.storage.run_dir import GRID, MANIFEST, RunDir
from dalle_cli.viz import labelled_grid, side_by_side

SINGLE = 4  # samples of a prompt that are shown, unpicked
CANDIDATES = 8  # of which CLIP picks one
GRID_PROMPTS = 8  # of each kind
DVAE_RECIPE, TRANSFORMER_RECIPE, CLIP_RECIPE = "dvae/demo", "transformer/demo", "clip/demo"


def demo(
    folder: Path, n_pictures: int, overrides: dict[str, list[str]], terminal: Terminal
) -> None:
    """Draw scenes, train the three models on them, generate, rerank and measure; writes grid.png and summary.json.

    overrides  further `--set` values for "dvae", "transformer" and "clip"
    """
    started = time.perf_counter()
    data, dvae, transformer, clip = (
        folder / name for name in ("data", "dvae", "transformer", "clip")
    )
    if clear_unless_finished(data, "shapes.json"):
        run(["data", "shapes", data, "--pictures", n_pictures], terminal)
    train = ["--data", data / "train"]
    run(["train-dvae", DVAE_RECIPE, *train, "--run", dvae, *_sets(overrides["dvae"])], terminal)
    own = ["--dvae", dvae, "--run", transformer]
    run(
        ["train-transformer", TRANSFORMER_RECIPE, *train, *own, *_sets(overrides["transformer"])],
        terminal,
    )
    run(["train-clip", CLIP_RECIPE, *train, "--run", clip, *_sets(overrides["clip"])], terminal)
    ranking = ["--clip", clip, "--best", 1, "--keep-all"]
    for group, options in (("seen", ["-n", SINGLE]), ("unseen", ["-n", CANDIDATES, *ranking])):
        prompts = ["--prompts", data / f"{group}.txt", "--out", folder / group]
        run(["generate", transformer, *prompts, *options], terminal)
    seen, unseen = read_records(folder / "seen"), read_records(folder / "unseen")
    best = [record for record in unseen if record["rank"] == 1]
    accuracy = {
        "seen": caption_accuracy(folder / "seen", seen, data),
        "unseen": caption_accuracy(folder / "unseen", unseen, data),
        f"unseen_best_of_{CANDIDATES}": caption_accuracy(folder / "unseen", best, data),
    }
    draw_grid(folder, seen, unseen)
    figures = last_validation(RunDir(dvae))
    summary = {
        "seconds": round(time.perf_counter() - started, 1),
        "dvae_psnr": round(figures["valid/psnr"], 2),
        "codes_used": int(figures["valid/codes_used"]),
        "clip_text_recall_at_1": round(last_validation(RunDir(clip))["valid/text_recall_at_1"], 4),
        "caption_accuracy": {name: round(share, 4) for name, share in accuracy.items()},
    }
    (folder / "summary.json").write_text(json.dumps(summary, indent=1) + "\n")
    terminal.result(_text(folder, summary), summary)


def run(arguments: list[Any], terminal: Terminal) -> None:
    """Print and run one `dalle` command; raises DalleError with its exit code where it fails."""
    words = list(map(str, arguments))
    terminal.say(f"\n$ dalle {shlex.join(words)}")
    command = [
        sys.executable,
        "-m",
        "dalle_cli",
        *words,
        *(["--quiet"] if terminal.is_quiet else []),
    ]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as child, _signals_left_to(child):
        code = child.wait()
    if code:
        raise DalleError(
            f"`dalle {words[0]}` did not finish",
            "run the same demo again to go on",
            exit_code=code if code > 0 else 128 - code,
        )


@contextmanager
def _signals_left_to(child: subprocess.Popen) -> Iterator[None]:
    """Let a request to stop reach the command under way, which saves, and wait for it.

    Ctrl-C reaches the child by itself, as the terminal's whole process group.
    """
    before = {
        signal.SIGINT: signal.signal(signal.SIGINT, lambda number, frame: None),
        signal.SIGTERM: signal.signal(
            signal.SIGTERM, lambda number, frame: child.send_signal(number)
        ),
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


def read_records(folder: Path) -> list[dict[str, Any]]:
    """Read a `generate` folder's manifest."""
    return [json.loads(line) for line in (folder / MANIFEST).read_text().splitlines()]


def caption_accuracy(folder: Path, records: list[dict[str, Any]], data: Path) -> float:
    """Share of drawn pictures that show what their caption says, every attribute right."""
    facts = json.loads((data / "shapes.json").read_text())
    pictures = (Image.open(folder / record["file"]).convert("RGB") for record in records)
    return Recogniser(facts["level"], facts["side"]).accuracy(
        pictures, [record["caption"] for record in records]
    )


def draw_grid(folder: Path, seen: list[dict[str, Any]], unseen: list[dict[str, Any]]) -> None:
    """Show single samples of a few prompts, and for combinations not seen in training the best of many beside them."""
    sheets = []
    for name, records in (("seen", seen), ("unseen", unseen)):
        captions = list(dict.fromkeys(record["caption"] for record in records))
        shown = captions[:: max(len(captions) // GRID_PROMPTS, 1)][:GRID_PROMPTS]
        own = {
            c: sorted((r for r in records if r["caption"] == c), key=lambda r: r["number"])
            for c in shown
        }
        rows = [(f"{caption} ({name})", own[caption][:SINGLE]) for caption in shown]
        sheets.append(_sheet(folder / name, rows))
        if name == "unseen":
            best = [[r for r in own[caption] if r["rank"] == 1] for caption in shown]
            sheets.append(
                _sheet(folder / name, [(f"best of {CANDIDATES}", records) for records in best])
            )
    side_by_side(sheets).save(folder / GRID)


def _sheet(folder: Path, rows: list[tuple[str, list[dict[str, Any]]]]) -> Image.Image:
    opened = [
        (label, [Image.open(folder / r["file"]).convert("RGB") for r in records])
        for label, records in rows
    ]
    return labelled_grid(opened)


def last_validation(run_dir: RunDir) -> dict[str, float]:
    """Read the last held-out figures of a run."""
    lines = [json.loads(line) for line in run_dir.metrics.read_text().splitlines()]
    return next(line for line in reversed(lines) if "valid/loss" in line)


def _sets(values: list[str]) -> list[str]:
    return [word for value in values for word in ("--set", value)]


def _text(folder: Path, summary: dict[str, Any]) -> str:
    accuracy, best = summary["caption_accuracy"], f"unseen_best_of_{CANDIDATES}"
    return "\n".join(
        [
            f"dVAE reconstruction     {summary['dvae_psnr']:.2f} dB, {summary['codes_used']} codes in use",
            f"caption accuracy        {accuracy['seen']:.1%} of combinations seen in training",
            f"                        {accuracy['unseen']:.1%} of combinations never seen",
            f"                        {accuracy[best]:.1%} of these, the best of {CANDIDATES} as CLIP finds",
            f"seconds                 {summary['seconds']:.0f}",
            f"pictures                {folder / GRID}",
        ]
    )
