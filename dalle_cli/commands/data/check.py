"""`dalle data check`: reads and decodes every sample before training does."""

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from dalle_cli.commands.reports.dataset_findings import DatasetFindings
from dalle_cli.console import Terminal
from dalle_cli.data.sources import Columns, describe_unread, encoded_folder, open_dataset
from dalle_cli.data.text.encodings import NOT_UTF8, TO_UTF8
from dalle_cli.errors import DalleError

MOST_SHOWN = 20
USUAL_BAD_SHARE = 0.05  # `data.max_bad_share` of the shipped recipes, but for the tiny ones


def run_data_check(
    spec: str,
    terminal: Terminal,
    *,
    image_column: str | None,
    caption_column: str | None,
    exclude: Path | None,
) -> None:
    """Read and decode everything; results are counts, sizes, and each bad sample with its reason.

    Raises DalleError if no sample is usable, or, after the results, if training would stop because
    too many are bad.
    """
    source = open_dataset(
        spec,
        captions_required=False,
        tokens_allowed=True,
        columns=Columns(image_column, caption_column),
        exclude=exclude,
    )
    findings = DatasetFindings(n_bad=source.n_lost, bad=list(source.problems))
    with terminal.progress(len(source), 0, "sample") as line:
        for index in range(len(source)):
            findings.add(source, index)
            line.advance()
    encoded = encoded_folder(source)
    if encoded is not None:
        findings.bad += encoded.damaged()

    if not findings.n_usable:
        reasons = "; ".join(f"{where}: {reason}" for where, reason in findings.bad[:3])
        raise DalleError(f"not one usable sample in {spec}", reasons)
    facts = findings.facts(spec, source)
    terminal.result(_text(facts), facts)
    _check_share(findings)


def _check_share(findings: DatasetFindings) -> None:
    """Raise DalleError if more samples are bad than the shipped recipes allow."""
    share, models = findings.bad_share, "training"
    if share <= USUAL_BAD_SHARE:
        share, models = findings.bad_share_with_captions, "training on captions"
    if share > USUAL_BAD_SHARE:
        # of the samples that train, if none of the bad ones is among the tenth that is held out
        enough = min(math.ceil(112 * share) / 100, 0.99)
        advice = [TO_UTF8] if NOT_UTF8 in findings.caption_faults else []
        raise DalleError(
            f"{models} would stop: {share:.1%} of the samples are bad, and the shipped recipes "
            f"allow {USUAL_BAD_SHARE:.0%}",
            "; ".join([*advice, f"`--set data.max_bad_share={enough:g}` trains on the others"]),
        )


def _text(facts: dict[str, Any]) -> str:
    captionless, unread = facts["without_caption"], facts["not_read"]
    usable = f"{facts['samples']:,} usable, {len(captionless):,} of them without a usable caption"
    longest = f"{facts['longest_caption']:,} characters"
    lines = [
        f"form            {facts['form']}",
        f"samples         {usable}",
        f"captions        {facts['captions']:,}, the longest {longest}",
        *(_token_lines(facts) if "copies" in facts else _size_lines(facts)),
        *([f"not read        {describe_unread(unread)}"] if unread else []),
        f"bad             {facts['bad_samples']:,}, {facts['bad_share']:.1%} of all samples",
    ]

    lines += _first(f"{problem['where']}: {problem['reason']}" for problem in facts["bad"])
    if captionless:
        faults = [f"{n:,} x {reason}" for reason, n in facts["caption_faults"].items()]
        lines.append(f"no caption      {len(captionless):,}: {', '.join(faults)}")
        lines += _first(captionless)
    return "\n".join(lines)


def _size_lines(facts: dict[str, Any]) -> list[str]:
    side = facts["short_side"]
    sizes = ", ".join(f"{size['pictures']:,} of {size['size']}" for size in facts["sizes"])
    return [
        f"short side      {side['min']} to {side['max']} pixels, median {side['median']}",
        f"common sizes    {sizes}",
    ]


def _token_lines(facts: dict[str, Any]) -> list[str]:
    side = facts["grid_size"]
    return [
        f"image tokens    {side}x{side} of the centred crop and of {facts['copies']:,} random ones",
        f"codes           {facts['codes_used']:,} of {facts['vocab_size']:,} in use",
        f"dVAE's encoder  sha256 {facts['dvae']}",
    ]


def _first(entries: Iterable[str]) -> list[str]:
    """Indent the first entries and count the others."""
    indented = [f"  {entry}" for entry in entries]
    more = len(indented) - MOST_SHOWN
    return indented if more <= 0 else [*indented[:MOST_SHOWN], f"  and {more:,} more, see --json"]
