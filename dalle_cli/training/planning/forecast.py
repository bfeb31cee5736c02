"""What a run will take, before it begins: time, memory, disk and passes, and what is doubtful.

Pure functions: the pace comes from a rehearsal, or is estimated from the device's peak rate.
"""

from dataclasses import dataclass

from dalle_cli.config import Recipe
from dalle_cli.console import size_text
from dalle_cli.loading import largest_table
from dalle_cli.training.planning.cost import (
    count_in_16_bits,
    count_parameters,
    sample_flops,
)
from dalle_cli.training.planning.memory import checkpoint_bytes
from dalle_cli.training.planning.situation import EFFICIENCY

MANY_PASSES = 2_000  # over the data, of which nothing is left to learn
FEW_HELD_OUT = 5  # samples, whose loss says little
WEEK = 7 * 24 * 3600  # seconds


@dataclass(frozen=True)
class Amount:
    """How much a run trains on.

    n_training, n_held_out  samples
    has_valid               whether those held out are a source of their own
    """

    recipe: Recipe
    n_training: int
    n_held_out: int
    has_valid: bool = False

    @property
    def passes(self) -> float:
        """How often each sample is seen."""
        training = self.recipe.training
        return training.steps * training.global_batch_size / self.n_training

    def doubts(self) -> list[tuple[str, str]]:
        """Return what makes no sense in it, each with what helps."""
        training, found = self.recipe.training, []
        if self.passes > MANY_PASSES:
            steps = MANY_PASSES * self.n_training // (4 * training.global_batch_size)
            found.append(
                (
                    f"{self.passes:,.0f} passes over {self.n_training:,} samples: the model will "
                    "know them by heart long before",
                    f"`--steps {max(steps, 1)}`, or more pictures",
                )
            )
        if self.n_training < training.global_batch_size:
            found.append(
                (
                    f"a batch of {training.global_batch_size} holds each of {self.n_training:,} "
                    "samples several times",
                    f"`--set training.global_batch_size={_half(self.n_training)}`",
                )
            )
        if self.n_held_out < FEW_HELD_OUT:
            share = min(FEW_HELD_OUT / (self.n_training + self.n_held_out), 0.5)
            plural = "" if self.n_held_out == 1 else "s"
            found.append(
                (
                    f"held-out figures of {self.n_held_out} sample{plural} say little",
                    "`--valid` with more pictures"
                    if self.has_valid
                    else f"`--set data.validation_share={share:.2g}`, or `--valid SRC`",
                )
            )
        return found


@dataclass(frozen=True)
class Forecast:
    """What a run is expected to take.

    seconds     from the first update to the last, validation and previews included
    peak_bytes  of memory, of a process or of its GPU; None if it is not known
    disk_bytes  of all checkpoints that are there at a time
    """

    seconds: float
    peak_bytes: int | None
    disk_bytes: int

    def doubts(self, recipe: Recipe, free_disk: int) -> list[tuple[str, str]]:
        """Return what makes no sense in it, each with what helps."""
        found = []
        if self.seconds > WEEK:
            steps = int(recipe.training.steps * WEEK / self.seconds / 7)
            found.append(
                (
                    f"that is {self.seconds / 86400:,.0f} days on this machine",
                    f"`--steps {max(steps, 1)}` is about a day; `dalle train` chooses models for "
                    "the machine",
                )
            )
        if self.disk_bytes > free_disk:
            sizes = f"{size_text(self.disk_bytes)}, and {size_text(free_disk)} are free"
            found.append(
                (
                    f"the checkpoints will take {sizes}",
                    "`--set runtime.keep_checkpoints=1`, or another disk",
                )
            )
        return found


def forecast(
    recipe: Recipe,
    seconds_per_step: float,
    *,
    steps_done: int = 0,
    seconds_per_validation: float = 0.0,
    peak_bytes: int | None = None,
) -> Forecast:
    """Return the forecast of a recipe's run at a pace, or of what is left of it."""
    steps, runtime = max(recipe.training.steps - steps_done, 0), recipe.runtime
    if steps == 0:
        return Forecast(0.0, peak_bytes, checkpoints_bytes(recipe))
    # the last update is followed by a validation, whenever the one before it was
    n_validations = 1 + (steps - 1) // runtime.validate_every
    return Forecast(
        seconds=steps * seconds_per_step + n_validations * seconds_per_validation,
        peak_bytes=peak_bytes,
        disk_bytes=checkpoints_bytes(recipe),
    )


def estimated_seconds_per_step(recipe: Recipe, matmul_rate: float) -> float:
    """Return the time of an update, from its operations and the device's peak rate."""
    operations = sample_flops(largest_table(recipe)) * recipe.training.global_batch_size
    return operations / (EFFICIENCY * matmul_rate)


def passes_text(passes: float) -> str:
    """Format a number of passes over the data: whole from ten on, else with two digits."""
    return f"{passes:,.0f}" if passes >= 10 else f"{passes:.2g}"


def checkpoints_bytes(recipe: Recipe) -> int:
    """Return the size of the checkpoints kept, the best, and one being written."""
    n_checkpoints = recipe.runtime.keep_checkpoints + 2
    n_parameters = count_parameters(largest_table(recipe))
    return checkpoint_bytes(n_parameters, count_in_16_bits(recipe)) * n_checkpoints


def _half(n: int) -> int:
    """Return the largest power of two of at most half a number."""
    return max(1 << (max(n // 2, 1).bit_length() - 1), 1)
