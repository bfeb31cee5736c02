"""`dalle demo`: all of DALL-E on toy scenes in minutes, by the commands that a user would type.

Each command is printed before it runs. An interrupted demo resumes where it stopped.
"""

import json
from pathlib import Path
from typing import Any

from dalle_cli.commands.reports.demos import demo_results
from dalle_cli.commands.reports.demos.demo_results import BEST, CANDIDATES, SINGLE, TEMPERATURE
from dalle_cli.commands.subcommands import clear_unless_finished, run_subcommand, set_words
from dalle_cli.console import Terminal, duration_text
from dalle_cli.storage.atomic import write_file
from dalle_cli.storage.job_folder import JobFolder, stopwatch
from dalle_cli.storage.run_dir import GRID

DVAE_RECIPE, TRANSFORMER_RECIPE, CLIP_RECIPE = "dvae/demo", "transformer/demo", "clip/demo"
SECONDS = "seconds.json"


def run_demo(
    folder: Path, n_pictures: int, overrides: dict[str, list[str]], terminal: Terminal
) -> None:
    """Render scenes, train three models on them, generate and rank; write a grid and a summary.

    overrides  further `--set` values for "dvae", "transformer" and "clip"

    Raises UsageError, touching nothing, for a folder that holds something else than a demo.
    """
    job = {"command": "demo", "pictures": n_pictures}
    with JobFolder.open(folder).writing(job), stopwatch(folder / SECONDS) as seconds:
        _run_commands(folder, n_pictures, overrides, terminal)
        figures = demo_results.demo_figures(folder)
        demo_results.save_demo_grid(folder)
        summary = {"seconds": round(seconds(), 1), **figures}
        write_file(folder / "summary.json", json.dumps(summary, indent=1) + "\n")
    terminal.result(_text(folder, summary), summary)


def _run_commands(
    folder: Path, n_pictures: int, overrides: dict[str, list[str]], terminal: Terminal
) -> None:
    """Run the commands in turn; those that have finished before have nothing to do."""
    data, dvae, transformer, clip = (
        folder / name for name in ("data", "dvae", "transformer", "clip")
    )
    if clear_unless_finished(data, "shapes.json"):
        _run(["data", "shapes", data, "--pictures", n_pictures], terminal)

    train = ["--data", data / "train"]
    _run(
        ["train-dvae", DVAE_RECIPE, *train, "--run", dvae, *set_words(overrides["dvae"])], terminal
    )
    train_transformer = ["train-transformer", TRANSFORMER_RECIPE, *train, "--dvae", dvae]
    _run([*train_transformer, "--run", transformer, *set_words(overrides["transformer"])], terminal)
    _run(
        ["train-clip", CLIP_RECIPE, *train, "--run", clip, *set_words(overrides["clip"])], terminal
    )

    generate = ["generate", transformer, "--temperature", TEMPERATURE]
    ranking = ["--clip", clip, "--best", 1, "--keep-all"]
    for group, options in (("seen", ["-n", SINGLE]), ("unseen", ["-n", CANDIDATES, *ranking])):
        prompts = ["--prompts", data / f"{group}.txt", "--out", folder / group]
        _run([*generate, *prompts, *options], terminal)


def _run(arguments: list[Any], terminal: Terminal) -> None:
    run_subcommand(arguments, terminal, hint="run the same demo again to resume it")


def _text(folder: Path, summary: dict[str, Any]) -> str:
    accuracy = summary["caption_accuracy"]
    best, n_codes = accuracy[BEST], summary["codes_used"]
    lines = [
        f"dVAE reconstruction     {summary['dvae_psnr']:.2f} dB, {n_codes} codes in use",
        f"sampling temperature    {summary['temperature']}",
        f"caption accuracy        {accuracy['seen']:.1%} of combinations seen in training",
        f"                        {accuracy['unseen']:.1%} of combinations never seen",
        f"                        {best:.1%} of these, the best of {CANDIDATES} as CLIP finds",
        f"time                    {duration_text(summary['seconds'])}",
        f"pictures                {folder / GRID}",
    ]
    return "\n".join(lines)
