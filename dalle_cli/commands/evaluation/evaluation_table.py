"""The figures of evaluations for people: one run, or several side by side, in 80 columns."""

import itertools
from collections.abc import Iterator, Sequence

from dalle_cli.commands.evaluation.figure_labels import FIGURES, number_text_of, shown_as
from dalle_cli.errors import printable
from dalle_cli.evaluation.evaluation_folder import Evaluation

COLUMNS = 80
MAX_NAME = 18  # columns of a run's name
VALUE_WIDTH = 9  # of the longest number
GAP = 2  # columns before a number, one of which marks the best of the column before
BEST = "*"
HIDDEN = "inception_score_std/"  # in the file alone


def evaluation_rows(evaluation: Evaluation) -> list[tuple[str, str]]:
    """Return the figures of one run: labels and numbers."""
    return [
        (shown_as(name).label, number_text_of(name, evaluation.figures[name]))
        for name in _names([evaluation])
    ]


def evaluation_notes(evaluation: Evaluation) -> list[str]:
    """Return what was measured, and what to know before the figures are believed."""
    protocol = evaluation.protocol
    measured = f"Measured on {protocol.get('pairs')} pairs ({protocol.get('split')})"
    if protocol.get("captions"):
        n = protocol.get("candidates")
        which = "one of each" if n == 1 else f"the best of {n} each"
        measured += f" and on pictures of {protocol['captions']} captions, {which}"
    return [f"{measured}, in {protocol.get('precision')}.", *evaluation.warnings]


def evaluation_table(evaluations: Sequence[Evaluation]) -> str:
    """Lay out figures in a column for each run, as many beside one another as fit.

    Of several runs, the best value of a row is marked.
    """
    names = _names(evaluations)
    label_width = max((len(shown_as(name).label) for name in names), default=0)
    tables = [
        _table(evaluations, names, columns, label_width=label_width)
        for columns in _blocks(evaluations, COLUMNS - label_width)
    ]
    notes = [f"{BEST} the best of these runs"] if len(evaluations) > 1 else []
    return "\n\n".join([*tables, *notes])


def _blocks(evaluations: Sequence[Evaluation], room: int) -> Iterator[list[int]]:
    """Yield the numbers of the runs that fit into so many columns beside one another."""
    block: list[int] = []
    left = room
    for i, evaluation in enumerate(evaluations):
        if block and left < _width(evaluation) + 1:  # for the last mark
            yield block
            block, left = [], room
        block.append(i)
        left -= _width(evaluation)
    yield block


def _table(
    evaluations: Sequence[Evaluation], names: list[str], columns: list[int], *, label_width: int
) -> str:
    """Lay out some of the runs; what is measured together stands together."""
    shown = [evaluations[i] for i in columns]
    lines = [" " * label_width + "".join(f"{_name(one):>{_width(one)}}" for one in shown)]
    for number, (_, group) in enumerate(itertools.groupby(names, key=_part)):
        lines += [""] if number else []
        for name in group:
            best = _best(name, evaluations)
            cells = [
                f"{_cell(name, evaluations[i]):>{_width(evaluations[i]) - (k > 0)}}"
                + (BEST if i in best else " ")
                for k, i in enumerate(columns)
            ]
            lines.append(f"{shown_as(name).label:<{label_width}}{''.join(cells)}".rstrip())
    return "\n".join(lines)


def _names(evaluations: Sequence[Evaluation]) -> list[str]:
    """Return the figures that any of the runs has: the known ones in order, then the others."""
    found = dict.fromkeys(name for one in evaluations for name in one.figures)
    others = [name for name in found if name not in FIGURES and not name.startswith(HIDDEN)]
    return [*(name for name in FIGURES if name in found), *others]


def _part(name: str) -> str:
    """Return what a figure is listed with: the beginning of its name, if it has several parts."""
    return name.rpartition("/")[0].partition("/")[0]


def _best(name: str, evaluations: Sequence[Evaluation]) -> set[int]:
    """Return which runs have the best value of a figure; none where all are equally good."""
    better = shown_as(name).better
    values = {i: one.figures[name] for i, one in enumerate(evaluations) if name in one.figures}
    if better is None or len(set(values.values())) < 2:
        return set()
    best = max(values.values()) if better else min(values.values())
    return {i for i, value in values.items() if value == best}


def _cell(name: str, evaluation: Evaluation) -> str:
    return number_text_of(name, evaluation.figures[name]) if name in evaluation.figures else "-"


def _name(evaluation: Evaluation) -> str:
    name = printable(evaluation.run)
    return name if len(name) <= MAX_NAME else f"…{name[1 - MAX_NAME :]}"


def _width(evaluation: Evaluation) -> int:
    return GAP + max(len(_name(evaluation)), VALUE_WIDTH)
