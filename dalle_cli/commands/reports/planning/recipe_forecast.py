"""What a recipe's run on some data would take on this machine, for `dalle info RECIPE --data`.

Nothing is run: memory is counted, and time is estimated from rates measured earlier.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from dalle_cli.commands.reports.model_text import Row
from dalle_cli.config import Recipe, training_command
from dalle_cli.console import duration_text, size_text
from dalle_cli.data.sources import open_datasets, validation_split
from dalle_cli.loading import largest_table
from dalle_cli.runtime.devices import open_device
from dalle_cli.runtime.peak_rates import stored_matmul_rate
from dalle_cli.storage.integrity.disk_space import free_disk
from dalle_cli.training.planning.cost import model_bytes, sample_bytes
from dalle_cli.training.planning.forecast import (
    Amount,
    estimated_seconds_per_step,
    forecast,
    passes_text,
)


def recipe_forecast(recipe: Recipe, data: list[str]) -> dict[str, Any]:
    """Return the time, memory, disk and passes of a recipe's run by one process on this machine.

    Raises DalleError where the data can't be opened.
    """
    is_captioned = recipe.kind != "dvae"
    source = open_datasets(
        data,
        captions_required=is_captioned,
        tokens_allowed=recipe.kind == "transformer",
        embeddings_allowed=training_command(recipe.kind) == "train-prior",
    )
    training, held_out = validation_split(source, recipe.data.validation_share)
    amount = Amount(recipe, len(training), len(held_out))

    device, precision = open_device("auto", recipe.runtime.precision)
    table = largest_table(recipe)
    batch = recipe.runtime.micro_batch_size or recipe.training.global_batch_size
    memory = model_bytes(table, 1) + batch * sample_bytes(table, precision)
    facts: dict[str, Any] = {
        "samples": amount.n_training,
        "held_out": amount.n_held_out,
        "passes": round(amount.passes, 2),
        "memory_bytes": memory,
    }

    rate = stored_matmul_rate(device, precision)
    pace = 0.0 if rate is None else estimated_seconds_per_step(recipe, rate)
    expected = forecast(recipe, pace)
    facts["disk_bytes"] = expected.disk_bytes
    facts["seconds"] = None if rate is None else round(expected.seconds, 1)
    doubts = amount.doubts() + expected.doubts(recipe, free_disk(Path.cwd()))
    return {**facts, "doubts": [{"doubt": doubt, "hint": hint} for doubt, hint in doubts]}


def forecast_rows(facts: Mapping[str, Any]) -> Iterator[Row]:
    """Yield rows that say what a run would take."""
    seen = f"{facts['samples']:,} samples, {facts['held_out']:,} held out"
    yield "data", f"{seen}; {passes_text(facts['passes'])} passes"
    if facts["seconds"] is None:
        yield "time", "not known: `dalle doctor --measure`, or --dry-run of the training command"
    else:
        yield "time", f"roughly {duration_text(facts['seconds'])}, one process on this machine"
    yield "memory", f"{size_text(facts['memory_bytes'])}, and what the libraries take"
    yield "disk", f"{size_text(facts['disk_bytes'])} for checkpoints"
