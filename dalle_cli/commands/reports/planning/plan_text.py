"""The plan of `dalle train` for people: choices with reasons, and what each model will take."""

import textwrap
from typing import Any

from dalle_cli.console import duration_text, size_text
from dalle_cli.training.planning.forecast import passes_text
from dalle_cli.training.planning.planner import MeasuredPlan

WIDTH = 80  # columns
WHAT, VALUE = 18, 29  # columns of the first two


def plan_text(measured: MeasuredPlan) -> str:
    """Format a plan at 80 columns."""
    plan, pictures = measured.plan, measured.situation.pictures
    lines = [
        f"{pictures.n_samples:,} captioned pictures of {pictures.side} pixels (short side, median)",
        "",
    ]
    for choice in plan.choices:
        lines += _row(choice.what, choice.value, choice.reason)

    lines.append("")
    for kind, recipe in plan.recipes.items():
        training, seconds = recipe.training, plan.seconds[kind]
        amount = f"{training.steps:,} steps of {training.global_batch_size}"
        passes = training.steps * training.global_batch_size / pictures.n_samples
        memory = measured.rehearsals[kind].peak_bytes
        lines += _row(
            f"train-{kind}",
            f"about {duration_text(seconds)}",
            f"{amount}, {passes_text(passes)} passes"
            + (f"; {size_text(memory)}" if memory else ""),
        )
    lines += _row("in all", f"about {duration_text(measured.seconds)}", "pictures included")
    return "\n".join(lines)


def plan_facts(measured: MeasuredPlan) -> dict[str, Any]:
    """Return what `--json` prints of a plan."""
    plan = measured.plan
    return {
        "recipes": {kind: recipe.model_dump() for kind, recipe in plan.recipes.items()},
        "seconds": {**plan.seconds, "all": measured.seconds},
        "choices": [vars(choice) for choice in plan.choices],
    }


def _row(what: str, value: str, reason: str) -> list[str]:
    """Format a row of three columns; the last is wrapped."""
    wrapped = textwrap.wrap(reason, WIDTH - WHAT - VALUE) or [""]
    rows = [f"{what:<{WHAT}}{value:<{VALUE}}{wrapped[0]}"]
    return rows + [" " * (WHAT + VALUE) + line for line in wrapped[1:]]
