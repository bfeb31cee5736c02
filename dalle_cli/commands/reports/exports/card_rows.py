"""The rows of a model card's tables: the sizes of its models, and how it was trained."""

from collections.abc import Iterator, Sequence

from dalle_cli.commands.reports.exports.card_kinds import CARD_KINDS
from dalle_cli.commands.reports.exports.exported_run import ExportedRun
from dalle_cli.commands.reports.model_facts import model_facts
from dalle_cli.config import ModelTable, kind_of
from dalle_cli.storage.model_about import ModelAbout


def card_table(rows: dict[str, object]) -> str:
    """Lay out a table of Markdown without headings."""
    return "\n".join(["| | |", "| --- | --- |", *(f"| {key} | {rows[key]} |" for key in rows)])


def size_rows(models: Sequence[ModelTable], *, is_half: bool) -> Iterator[tuple[str, str]]:
    """Yield a row for each model: its parameters, pictures and tokens."""
    for model in models:
        facts = model_facts(model)
        size = f"{facts['parameters']['all']:,} parameters"
        pixels = facts.get("image_size")
        pictures = [f"pictures of {pixels}x{pixels} pixels"] if pixels else []
        parts = [size, *pictures, f"tokens: {facts['tokens']}"]
        yield CARD_KINDS[kind_of(model)].title, "; ".join(parts)
    if is_half:
        yield "weights", "in fp16, gains and biases in fp32; loaded as fp32"


def training_rows(exported: ExportedRun, about: ModelAbout | None) -> Iterator[tuple[str, object]]:
    """Yield what a model was trained on, for how long, and with which versions."""
    record = exported.record or {}
    data, recipe = record.get("data", {}), record.get("recipe", {})
    if about is not None:
        yield "data", about.data
        yield "time", about.training
    if exported.step is not None:
        yield "steps", f"{exported.step:,}"
    if batch := recipe.get("training", {}).get("global_batch_size"):
        yield "batch size", batch
    if "samples" in data:
        yield "samples", f"{data['samples']:,}, those held out included"
        yield "fingerprint of the data", f"`{data.get('fingerprint')}`"
    yield from record.get("versions", {}).items()
    yield "recipe", "`recipe.json`" if recipe else "not recorded"
