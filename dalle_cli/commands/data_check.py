"""`dalle data check`: look at every sample before training does."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from dalle_cli.console import Terminal
from dalle_cli.data.images import BadSample, decode_image
from dalle_cli.data.sources import Source, open_source
from dalle_cli.errors import DalleError
from dalle_cli.untrusted import printable

MOST_SHOWN = 20


@dataclass
class Findings:
    """What a look at every sample gathers."""

    sizes: list[tuple[int, int]] = field(default_factory=list)  # width and height in pixels
    caption_lengths: list[int] = field(default_factory=list)  # in characters
    without_caption: list[str] = field(default_factory=list)
    bad: list[tuple[str, str]] = field(default_factory=list)

    def look(self, source: Source, index: int) -> None:
        """Read and decode one sample."""
        try:
            sample = source.read(index)
            self.sizes.append(decode_image(sample.image).size)
        except BadSample as problem:
            self.bad.append((printable(source.key(index)), problem.reason))
        except OSError as error:
            self.bad.append((printable(source.key(index)), str(error)))
        else:
            self.caption_lengths += map(len, sample.captions)
            if not sample.captions:
                self.without_caption.append(printable(sample.key))


def data_check(spec: str, terminal: Terminal) -> None:
    """Read and decode everything; results are counts, sizes, and each bad sample with its reason.

    Raises DalleError where no sample is usable.
    """
    source = open_source(spec, captions_required=False)
    findings = Findings(bad=list(source.problems))
    with terminal.progress(len(source), 0, "sample") as line:
        for index in range(len(source)):
            findings.look(source, index)
            line.advance()
    if not findings.sizes:
        reasons = "; ".join(f"{where}: {reason}" for where, reason in findings.bad[:3])
        raise DalleError(f"not one usable sample in {spec}", reasons)
    facts = _facts(spec, source, findings)
    terminal.result(_text(facts), facts)


def _facts(spec: str, source: Source, findings: Findings) -> dict[str, Any]:
    short_sides = [min(size) for size in findings.sizes]
    return {
        "data": spec,
        "samples": len(findings.sizes),
        "captions": len(findings.caption_lengths),
        "without_caption": findings.without_caption,
        "longest_caption": max(findings.caption_lengths, default=0),
        "short_side": {"min": min(short_sides), "median": int(median(short_sides)), "max": max(short_sides)},
        "sizes": [{"size": f"{w}x{h}", "pictures": n} for (w, h), n in Counter(findings.sizes).most_common(5)],
        "fingerprint": source.fingerprint(),
        "bad": [{"where": where, "reason": reason} for where, reason in findings.bad],
    }


def _text(facts: dict[str, Any]) -> str:
    captionless = facts["without_caption"]
    side, sizes = facts["short_side"], ", ".join(f"{s['pictures']:,} of {s['size']}" for s in facts["sizes"])
    lines = [
        f"samples         {facts['samples']:,} usable, {len(captionless):,} of them without a usable caption",
        f"captions        {facts['captions']:,}, the longest {facts['longest_caption']:,} characters",
        f"short side      {side['min']} to {side['max']} pixels, median {side['median']}",
        f"common sizes    {sizes}",
        f"bad             {len(facts['bad']):,}",
    ]
    lines += _first(f"{problem['where']}: {problem['reason']}" for problem in facts["bad"])
    if captionless:
        lines.append(f"no caption      {len(captionless):,}: missing, empty or not UTF-8")
        lines += _first(captionless)
    return "\n".join(lines)


def _first(entries: Iterable[str]) -> list[str]:
    """Indent the first entries and count the others."""
    indented = [f"  {entry}" for entry in entries]
    more = len(indented) - MOST_SHOWN
    return indented if more <= 0 else [*indented[:MOST_SHOWN], f"  and {more:,} more, see --json"]
