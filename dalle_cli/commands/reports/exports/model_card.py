"""The model card of an export: a README in the style of Hugging Face, for people and for the hub.

It states what the files are and where they come from, and what their author says of them in
`about.toml`. Without that file, the licence is left to whoever publishes them.
"""

import shlex
from collections.abc import Iterator, Sequence
from typing import Any

from dalle_cli.commands.reports.exports.card_kinds import CARD_KINDS, PAPER, CardKind
from dalle_cli.commands.reports.exports.card_rows import card_table, size_rows, training_rows
from dalle_cli.commands.reports.exports.exported_run import ExportedRun
from dalle_cli.config import ModelTable, TrainedTransformerTable, kind_of
from dalle_cli.errors import printable
from dalle_cli.storage.model_about import ModelAbout, SamplingAdvice


def model_card(
    name: str,
    table: ModelTable,
    exported: ExportedRun,
    *,
    parts: Sequence[ModelTable] = (),
    is_half: bool = False,
    about: ModelAbout | None = None,
) -> str:
    """Write the card of a model.

    name     of the export's folder
    parts    sizes of the models that come with it
    is_half  whether its matrices are stored in fp16
    about    what its author says of it
    """
    kind = CARD_KINDS[kind_of(table)]
    title = f"{about.title}\n\n{about.draws}" if about else printable(name)
    sections = [
        _front_matter(kind, about),
        f"# {title}\n\n{kind.about.format(paper=PAPER)}",
        "## Sizes\n\n" + card_table(dict(size_rows([table, *parts], is_half=is_half))),
        "## Training\n\n" + card_table(dict(training_rows(exported, about))),
        _licences(about) if about else "",
        _measured(about) if about else "",
        _held_out(exported),
        _use(name, kind, exported, about, parts=[kind_of(part) for part in parts]),
        "## Limits\n\n" + "\n".join(f"- {limit}" for limit in _limits(table, about)),
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def _front_matter(kind: CardKind, about: ModelAbout | None) -> str:
    task = [f"pipeline_tag: {kind.task}"] if kind.task else []
    tags = ["tags:", *(f"- {tag}" for tag in kind.tags)]
    license_line = "# license: name the license that you publish these weights under"
    if about is not None:
        license_line = f"license: {about.licence.lower()}"
    return "\n".join(["---", "library_name: dalle", *task, *tags, license_line, "---"])


def _licences(about: ModelAbout) -> str:
    return f"## Licences\n\n- weights: {about.licence}\n- training data: {about.data_licence}"


def _measured(about: ModelAbout) -> str:
    return f"## Figures\n\n{card_table(dict(about.figures))}" if about.figures else ""


def _held_out(exported: ExportedRun) -> str:
    if not exported.held_out:
        return ""
    figures: dict[str, Any] = {
        name.replace("_", " "): f"{value:.4g}" for name, value in exported.held_out.items()
    }
    heading = f"On samples that were not trained on, after {exported.measured_at:,} steps:"
    return f"## Held-out figures\n\n{heading}\n\n{card_table(figures)}"


def _use(
    name: str,
    kind: CardKind,
    exported: ExportedRun,
    about: ModelAbout | None,
    *,
    parts: Sequence[str],
) -> str:
    """parts: kinds of the models that come with it."""
    quoted = shlex.quote(printable(name))
    has_prior = any(part.startswith("prior") for part in parts)
    with_clip = kind.use_of_clip if "clip" in parts else ""
    with_prior = kind.use_of_prior if has_prior else ""
    commands = filter(None, (with_prior, kind.use, with_clip))
    command = "\n".join(commands).format(name=quoted)
    recipe = (exported.record or {}).get("recipe", {})
    guided = ""
    if about is not None and about.sampling != SamplingAdvice():
        guided = (
            "\n\nWhere nothing else is given, it samples at temperature "
            f"{about.sampling.temperature:g} with guidance {about.sampling.guidance:g}."
        )
    elif recipe.get("kind") == "transformer" and recipe.get("loss", {}).get("caption_dropout"):
        guided = (
            "\n\nIt was trained with empty captions, too: `--guidance 2` follows captions more."
        )
    return f"## Use\n\n```\n{command}\n```\n\n`dalle` is the package that made these files.{guided}"


def _limits(table: ModelTable, about: ModelAbout | None) -> Iterator[str]:
    yield from about.limits if about else ()
    yield "It knows nothing but the samples it was trained on, and repeats their errors and biases."
    if isinstance(table, TrainedTransformerTable):
        yield (
            f"Captions are cut after {table.text_len - 1} tokens. Words that no caption in "
            "training had mean nothing to it; `dalle generate` warns of them."
        )
        yield "Nothing filters captions or pictures: look at pictures before publishing them."
