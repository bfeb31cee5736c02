"""The story of a run in plain words, for `dalle info`."""

from collections.abc import Iterator, Mapping
from typing import Any

from dalle_cli.commands.reports.model_text import Row, aligned_rows, model_size_rows
from dalle_cli.console import duration_text, size_text, sparkline
from dalle_cli.errors import printable

CHART_WIDTH = 40  # columns, at most
MAX_CHANGES = 12  # that are listed


def story_text(facts: Mapping[str, Any]) -> str:
    """Return the facts of a model's folder as rows: what it is, and what has become of it."""
    return aligned_rows(story_rows(facts))


def story_rows(facts: Mapping[str, Any]) -> list[Row]:
    """Return what a model is, what has become of it, and what is damaged: labels and texts."""
    damaged = [("damaged", printable(problem)) for problem in facts["damaged"]]
    return [*model_size_rows(facts), *_story_rows(facts["run"]), *damaged]


def story_line(name: str, facts: Mapping[str, Any]) -> str:
    """Return the facts of one of several runs as a line."""
    story = facts["run"]
    parts = ["damaged"] if facts["damaged"] else []
    parts += [facts["kind"], _progress(story)]
    if story["seconds"] is not None:
        parts.append(duration_text(story["seconds"]))
    if story["held_out_loss"]:
        parts.append(f"held-out loss {list(story['held_out_loss'].values())[-1]:.3f}")
    return f"{printable(name):<14}  " + ", ".join(part for part in parts if part)


def _story_rows(story: Mapping[str, Any]) -> Iterator[Row]:
    data = story["data"]
    if data.get("samples") is not None:
        yield "data", _data(data, story["validation_share"])
    for source in data.get("sources") or []:
        yield "", printable(str(source))
    if story["recipe"]:
        yield from _recipe_rows(story)

    if progress := _progress(story):
        yield "trained", progress
    if story["seconds"] is not None:
        yield "time", f"{duration_text(story['seconds'])}{_machine(story['resolved'])}"
    if story["held_out_loss"]:
        yield from _loss_rows(story["held_out_loss"])
    if story["exported_loss"] is not None:
        yield "held-out loss", f"{story['exported_loss']:.3f}"

    if story["best_checkpoint"] is not None:
        is_last = story["best_checkpoint"] == story["checkpoints"][-1]
        which = "the last one" if is_last else "not the last one: `--checkpoint best` uses it"
        yield "best checkpoint", f"step {story['best_checkpoint']:,}, {which}"
    disk = size_text(story["bytes"])
    if n := len(story["checkpoints"]):
        noun = "checkpoint" if n == 1 else "checkpoints"
        disk += f", of which {size_text(story['checkpoint_bytes'])} are {n} {noun}"
    yield "on disk", disk


def _data(data: Mapping[str, Any], share: object) -> str:
    samples = f"{data['samples']:,} samples" if isinstance(data["samples"], int) else "samples"
    if data.get("held_out") != "a share":
        return f"{samples}, with others held out"
    return f"{samples}, of which {share:.0%} are held out" if isinstance(share, float) else samples


def _recipe_rows(story: Mapping[str, Any]) -> Iterator[Row]:
    changes = [
        f"{key}: {_value(now)}, shipped: {_value(shipped)}"
        for key, (shipped, now) in story["changes"].items()
    ] or list(map(str, story["overrides"]))
    name = printable(str(story["recipe"]))
    yield "recipe", f"{name}, with changes" if changes else name
    for change in changes[:MAX_CHANGES]:
        yield "", printable(change)
    if len(changes) > MAX_CHANGES:
        yield "", f"and {len(changes) - MAX_CHANGES} more; `--json` lists all"


def _value(value: Any) -> str:
    return f"{value:,}" if type(value) is int else "absent" if value is None else str(value)


def _progress(story: Mapping[str, Any]) -> str:
    step, steps = story["step"], story["steps"]
    if step is None:
        return "no step yet" if steps else ""
    return f"step {step:,} of {steps:,}" if isinstance(steps, int) else f"step {step:,}"


def _machine(resolved: Mapping[str, Any]) -> str:
    device, precision = resolved.get("device"), resolved.get("precision")
    if not (device and precision):
        return ""
    n = resolved.get("processes")
    processes = f", {n} processes" if isinstance(n, int) and n > 1 else ""
    return printable(f", on {device} in {precision}{processes}")


def _loss_rows(losses: Mapping[str, float]) -> Iterator[Row]:
    values = list(losses.values())
    best = min(losses, key=losses.__getitem__)
    if len(values) > 1:
        yield "held-out loss", sparkline(values, CHART_WIDTH)
    figures = (
        f"first {values[0]:.3f}, lowest {losses[best]:.3f} at step {int(best):,}, "
        f"last {values[-1]:.3f}"
    )
    yield "" if len(values) > 1 else "held-out loss", figures
