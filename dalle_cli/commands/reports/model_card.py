"""The model card of an export: a README in the style of Hugging Face, for people and for the hub.

It states what the files are and where they come from. The license is left to whoever publishes
them.
"""

import shlex
from collections.abc import Iterator
from typing import Any

from dalle_cli.commands.reports.card_kinds import CARD_KINDS, PAPER, CardKind
from dalle_cli.commands.reports.exported_run import ExportedRun
from dalle_cli.commands.reports.model_facts import model_facts
from dalle_cli.config import ModelTable, TrainedTransformerTable, kind_of
from dalle_cli.errors import printable


def model_card(
    name: str, table: ModelTable, exported: ExportedRun, *, dvae: ModelTable | None
) -> str:
    """Write the card of a model.

    name  of the export's folder
    dvae  sizes of the discrete VAE that comes with a transformer
    """
    kind = CARD_KINDS[kind_of(table)]
    sections = [
        _front_matter(kind),
        f"# {printable(name)}\n\n{kind.about.format(paper=PAPER)}",
        "## Sizes\n\n" + _table(dict(_sizes(table, dvae))),
        "## Training\n\n" + _table(dict(_training(exported))),
        _held_out(exported),
        _use(name, kind, exported),
        "## Limits\n\n" + "\n".join(f"- {limit}" for limit in _limits(table)),
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def _front_matter(kind: CardKind) -> str:
    task = [f"pipeline_tag: {kind.task}"] if kind.task else []
    tags = ["tags:", *(f"- {tag}" for tag in kind.tags)]
    license_line = "# license: name the license that you publish these weights under"
    return "\n".join(["---", "library_name: dalle", *task, *tags, license_line, "---"])


def _table(rows: dict[str, object]) -> str:
    return "\n".join(["| | |", "| --- | --- |", *(f"| {key} | {rows[key]} |" for key in rows)])


def _sizes(table: ModelTable, dvae: ModelTable | None) -> Iterator[tuple[str, str]]:
    """Yield a row for each model: its parameters, pictures and tokens."""
    for model in (table, dvae):
        if model is not None:
            facts = model_facts(model)
            size = f"{facts['parameters']['all']:,} parameters"
            pixels = facts.get("image_size")
            pictures = [f"pictures of {pixels}x{pixels} pixels"] if pixels else []
            parts = [size, *pictures, f"tokens: {facts['tokens']}"]
            yield CARD_KINDS[kind_of(model)].title, "; ".join(parts)


def _training(exported: ExportedRun) -> Iterator[tuple[str, object]]:
    record = exported.record or {}
    data, recipe = record.get("data", {}), record.get("recipe", {})
    if exported.step is not None:
        yield "steps", f"{exported.step:,}"
    if batch := recipe.get("training", {}).get("global_batch_size"):
        yield "batch size", batch
    if "samples" in data:
        yield "samples", f"{data['samples']:,}, those held out included"
        yield "fingerprint of the data", f"`{data.get('fingerprint')}`"
    yield from record.get("versions", {}).items()
    yield "recipe", "`recipe.json`" if recipe else "not recorded"


def _held_out(exported: ExportedRun) -> str:
    if not exported.held_out:
        return ""
    figures: dict[str, Any] = {
        name.replace("_", " "): f"{value:.4g}" for name, value in exported.held_out.items()
    }
    heading = f"On samples that were not trained on, after {exported.measured_at:,} steps:"
    return f"## Held-out figures\n\n{heading}\n\n{_table(figures)}"


def _use(name: str, kind: CardKind, exported: ExportedRun) -> str:
    command = kind.use.format(name=shlex.quote(printable(name)))
    recipe = (exported.record or {}).get("recipe", {})
    guided = ""
    if recipe.get("loss", {}).get("caption_dropout"):
        guided = (
            "\n\nIt was trained with empty captions, too: `--guidance 2` follows captions more."
        )
    return f"## Use\n\n```\n{command}\n```\n\nThe command is that of `dalle`.{guided}"


def _limits(table: ModelTable) -> Iterator[str]:
    yield "It knows nothing but the samples it was trained on, and repeats their errors and biases."
    if isinstance(table, TrainedTransformerTable):
        yield (
            f"Captions are cut after {table.text_len - 1} tokens. Words that no caption in "
            "training had mean nothing to it; `dalle generate` warns of them."
        )
        yield "Nothing filters captions or pictures: look at pictures before publishing them."
