"""`dalle demo-unclip`: all of DALL-E 2 on toy scenes, by the commands that a user would type.

Each command is printed before it runs. An interrupted demo resumes where it stopped.
"""

import json
from pathlib import Path
from typing import Any

from dalle_cli.commands.reports.demos import unclip_demo_results as results
from dalle_cli.commands.reports.demos.unclip_demo_grid import save_unclip_demo_grid
from dalle_cli.commands.subcommands import clear_unless_finished, run_subcommand, set_words
from dalle_cli.console import Terminal, duration_text
from dalle_cli.storage.atomic import write_file
from dalle_cli.storage.job_folder import JobFolder, stopwatch
from dalle_cli.storage.run_dir import GRID

CLIP_RECIPE, PRIOR_RECIPE, DECODER_RECIPE = "clip/demo", "prior/demo", "decoder/demo"
SECONDS = "seconds.json"
STEPS = 50  # of the decoder; all 250 would take most of the demo's time
PATH_PICTURES = 7
STRENGTH = 0.5  # of the change of text


def run_demo_unclip(
    folder: Path, n_pictures: int, overrides: dict[str, list[str]], terminal: Terminal
) -> None:
    """Render scenes, train three models on them, generate, vary and blend; write grid and summary.

    overrides  further `--set` values for "clip", "prior" and "decoder"

    Raises UsageError, touching nothing, for a folder that holds something else than a demo.
    """
    job = {"command": "demo-unclip", "pictures": n_pictures}
    with JobFolder.open(folder).writing(job), stopwatch(folder / SECONDS) as seconds:
        _train(folder, n_pictures, overrides, terminal)
        _generate(folder, terminal)
        _manipulate(folder, terminal)
        figures = results.unclip_demo_figures(folder)
        save_unclip_demo_grid(folder)
        summary = {"seconds": round(seconds(), 1), **figures}
        write_file(folder / "summary.json", json.dumps(summary, indent=1) + "\n")
    terminal.result(_text(folder, summary), summary)


def _train(
    folder: Path, n_pictures: int, overrides: dict[str, list[str]], terminal: Terminal
) -> None:
    """Run the commands up to the models; those that have finished before have nothing to do."""
    data, clip, embeddings = folder / "data", folder / "clip", folder / "embeddings"
    if clear_unless_finished(data, "shapes.json"):
        _run(["data", "shapes", data, "--pictures", n_pictures], terminal)

    train, with_clip = ["--data", data / "train"], ["--clip", clip]
    _run(
        ["train-clip", CLIP_RECIPE, *train, "--run", clip, *set_words(overrides["clip"])], terminal
    )
    encode = ["data", "encode", data / "train", *with_clip, "--out", embeddings, "--copies", 1]
    _run(encode, terminal)
    prior = ["train-prior", PRIOR_RECIPE, "--data", embeddings, *with_clip]
    _run([*prior, "--run", folder / "prior", *set_words(overrides["prior"])], terminal)
    decoder = ["train-decoder", DECODER_RECIPE, *train, *with_clip]
    _run([*decoder, "--run", folder / "decoder", *set_words(overrides["decoder"])], terminal)


def _generate(folder: Path, terminal: Terminal) -> None:
    """Generate a picture of every prompt; of those never seen, in three ways."""
    for name, (prompts, prior) in results.GENERATED.items():
        guess = folder / prior if prior == "prior" else prior
        words = ["--prior", guess, "--prompts", folder / "data" / f"{prompts}.txt"]
        out = ["-n", 1, "--steps", STEPS, "--out", folder / name]
        _run(["generate", folder / "decoder", *words, *out], terminal)


def _manipulate(folder: Path, terminal: Terminal) -> None:
    """Vary pictures and blend two of them, and one with a text, unless that is done."""
    decoder = folder / "decoder"
    first, last = results.keep_originals(folder)[:2]
    ends = ["--from", results.caption_of(first), "--to", results.caption_of(last)]
    steps = ["--steps", STEPS]
    path = ["-n", PATH_PICTURES, *steps]
    for name, words in {
        "variations": ["vary", decoder, first.parent, "-n", results.VARIATIONS, *steps],
        "blend": ["blend", decoder, first, last, *path],
        "text-blend": ["blend", decoder, first, *ends, "--strength", STRENGTH, *path],
    }.items():
        if clear_unless_finished(folder / name, GRID):
            _run([*words, "--out", folder / name], terminal)


def _run(arguments: list[Any], terminal: Terminal) -> None:
    run_subcommand(arguments, terminal, hint="run the same demo again to resume it")


def _text(folder: Path, summary: dict[str, Any]) -> str:
    accuracy = summary["caption_accuracy"]
    lines = [
        f"caption accuracy  {accuracy['seen']:.1%} of combinations seen in training",
        f"                  {accuracy['unseen']:.1%} of combinations never seen",
        f"                  {accuracy['unseen_from_text']:.1%} of these, from the caption's "
        "embedding",
        f"                  {accuracy['unseen_from_caption']:.1%} of these, from the caption alone",
        f"variations        {summary['variation_accuracy']:.1%} show what the original shows",
        f"time              {duration_text(summary['seconds'])}",
        f"pictures          {folder / GRID}",
    ]
    return "\n".join(lines)
