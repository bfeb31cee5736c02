"""`dalle data check`: look at every sample before training does."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import numpy as np

from dalle_cli.console import Terminal
from dalle_cli.data.images import BadSample, decode_image
from dalle_cli.data.sources import Source, TokenSource, open_dataset
from dalle_cli.errors import DalleError
from dalle_cli.untrusted import printable

MOST_SHOWN = 20


@dataclass
class Findings:
    """What a look at every sample gathers."""

    n_usable: int = 0
    sizes: list[tuple[int, int]] = field(default_factory=list)  # width and height in pixels
    codes: set[int] = field(default_factory=set)  # that occur among image tokens
    caption_lengths: list[int] = field(default_factory=list)  # in characters
    without_caption: list[str] = field(default_factory=list)
    bad: list[tuple[str, str]] = field(default_factory=list)

    def look(self, source: Source, index: int) -> None:
        """Read one sample, and decode its picture if it has one."""
        try:
            sample = source.read(index)
            if sample.image_tokens is None:
                self.sizes.append(decode_image(sample.image).size)
            else:
                self.codes.update(np.unique(sample.image_tokens).tolist())
        except BadSample as problem:
            self.bad.append((printable(source.key(index)), problem.reason))
        except OSError as error:
            self.bad.append((printable(source.key(index)), str(error)))
        else:
            self.n_usable += 1
            self.caption_lengths += map(len, sample.captions)
            if not sample.captions:
                self.without_caption.append(printable(sample.key))


def data_check(spec: str, terminal: Terminal) -> None:
    """Read and decode everything; results are counts, sizes, and each bad sample with its reason.

    Raises DalleError where no sample is usable.
    """
    source = open_dataset(spec, captions_required=False, tokens_allowed=True)
    findings = Findings(bad=list(source.problems))
    with terminal.progress(len(source), 0, "sample") as line:
        for index in range(len(source)):
            findings.look(source, index)
            line.advance()
    if isinstance(source, TokenSource):
        findings.bad += source.damaged()
    if not findings.n_usable:
        reasons = "; ".join(f"{where}: {reason}" for where, reason in findings.bad[:3])
        raise DalleError(f"not one usable sample in {spec}", reasons)
    facts = _facts(spec, source, findings)
    terminal.result(_text(facts), facts)


def _facts(spec: str, source: Source, findings: Findings) -> dict[str, Any]:
    of_pictures = (
        _token_facts(source, findings) if isinstance(source, TokenSource) else _size_facts(findings)
    )
    return {
        "data": spec,
        "samples": findings.n_usable,
        "captions": len(findings.caption_lengths),
        "without_caption": findings.without_caption,
        "longest_caption": max(findings.caption_lengths, default=0),
        **of_pictures,
        "fingerprint": source.fingerprint(),
        "bad": [{"where": where, "reason": reason} for where, reason in findings.bad],
    }


def _size_facts(findings: Findings) -> dict[str, Any]:
    short_sides = [min(size) for size in findings.sizes]
    return {
        "short_side": {
            "min": min(short_sides),
            "median": int(median(short_sides)),
            "max": max(short_sides),
        },
        "sizes": [
            {"size": f"{w}x{h}", "pictures": n}
            for (w, h), n in Counter(findings.sizes).most_common(5)
        ],
    }


def _token_facts(source: TokenSource, findings: Findings) -> dict[str, Any]:
    encoding = source.encoding
    return {
        "copies": encoding.copies,
        "grid_size": encoding.grid_size,
        "vocab_size": encoding.vocab_size,
        "codes_used": len(findings.codes),
        "dvae": encoding.dvae,
    }


def _text(facts: dict[str, Any]) -> str:
    captionless = facts["without_caption"]
    lines = [
        f"samples         {facts['samples']:,} usable, {len(captionless):,} of them without a usable caption",
        f"captions        {facts['captions']:,}, the longest {facts['longest_caption']:,} characters",
        *(_token_lines(facts) if "copies" in facts else _size_lines(facts)),
        f"bad             {len(facts['bad']):,}",
    ]
    lines += _first(f"{problem['where']}: {problem['reason']}" for problem in facts["bad"])
    if captionless:
        lines.append(f"no caption      {len(captionless):,}: missing, empty or not UTF-8")
        lines += _first(captionless)
    return "\n".join(lines)


def _size_lines(facts: dict[str, Any]) -> list[str]:
    side, sizes = (
        facts["short_side"],
        ", ".join(f"{s['pictures']:,} of {s['size']}" for s in facts["sizes"]),
    )
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
