"""The state around an update that all engines share: optimizer, schedule, average and counts.

Knows nothing of how gradients come about, nor whether the weights are whole parameters or a
process's partitions.
"""

from collections.abc import Mapping

from torch import Tensor

from dalle_cli.config import EmaTable, OptimizerTable
from dalle_cli.runtime.distributed import World
from dalle_cli.training.engines.engine import EngineState
from dalle_cli.training.metric_log import Metrics
from dalle_cli.training.optimization.adamw import AdamW
from dalle_cli.training.optimization.ema import Ema
from dalle_cli.training.optimization.gradient_scaling import GradientScales
from dalle_cli.training.optimization.learning_rate import LearningRate

MOMENTS = ("exp_avg", "exp_avg_sq")
SCALES = "grad_scales"  # their group in a checkpoint


class UpdateState:
    """Optimizer, learning rate, moving average, gradient scales, and the count of updates.

    step       attempted updates
    n_applied  those of them that were not skipped
    """

    def __init__(
        self,
        optimizer: AdamW,
        weights: Mapping[str, Tensor],
        *,
        table: OptimizerTable,
        ema: EmaTable | None,
        scales: GradientScales | None,
        world: World,
    ) -> None:
        """weights: the tensors that the optimizer updates, by name; scales: of an fp16 model."""
        self.step = 0
        self.n_applied = 0
        self.optimizer = optimizer
        self.scales = scales
        self.ema = Ema(weights, ema) if ema else None
        self._weights = dict(weights)
        self._learning_rate = LearningRate(table)
        self._world = world

    def observe(self, loss: float | Tensor) -> None:
        """Record the loss of the update to come, on which its learning rate may depend."""
        self._learning_rate.observe(self.step, loss)

    def prepare(self) -> None:
        """Set the optimizer to the update to come."""
        self.optimizer.prepare(self.n_applied + 1, self._learning_rate.at(self.step))

    def finish(self, *, is_applied: bool) -> None:
        """Count an attempted update, then update the average and the scales.

        Every process takes part, since the overflow flags are summed over ranks.
        """
        if is_applied:
            self.n_applied += 1
            if self.ema:
                self.ema.follow(self.n_applied)
        if self.scales:
            self._world.all_reduce(self.scales.overflowed)
            self.scales.update()
        self.step += 1

    def metrics(self, gradient_norm: float) -> Metrics:
        """Return the figures of the last update."""
        figures: Metrics = {
            "train/gradient_norm": gradient_norm,
            "train/lr": self._learning_rate.at(self.step - 1),
        }
        return figures | (self.scales.metrics() if self.scales else {})

    def inference_weights(self) -> dict[str, Tensor]:
        """Return the average of the weights, or the weights where none is kept, by name."""
        if self.ema:
            return self.ema.weights
        return {name: weight.data for name, weight in self._weights.items()}

    def weight_groups(self) -> dict[str, dict[str, Tensor]]:
        """Return, by group and name, the weights, their moments and their average."""
        groups = {"parameters": {name: weight.data for name, weight in self._weights.items()}}
        for moment in MOMENTS:
            groups[moment] = {
                name: self.optimizer.moments(weight)[moment]
                for name, weight in self._weights.items()
            }
        return groups | ({"ema": self.ema.weights} if self.ema else {})

    def scale_group(self) -> dict[str, dict[str, Tensor]]:
        """Return the tensors of the gradient scales as a group, where there are any."""
        return {SCALES: self.scales.state()} if self.scales else {}

    def numbers(self) -> dict[str, int | float]:
        """Return the counts that a checkpoint stores."""
        numbers: dict[str, int | float] = {
            "step": self.step,
            "optimizer_updates": self.n_applied,
            **self._learning_rate.numbers(),
        }
        return numbers | ({"ema_updates": self.ema.n_updates} if self.ema else {})

    def restore(self, state: EngineState) -> None:
        """Restore the counts and the scales; the groups of the weights are the engine's to restore.

        Raises ValueError naming tensors that do not fit.
        """
        if self.scales and SCALES in state.tensors:  # absent where the run had another precision
            self.scales.restore(state.tensors[SCALES])
        self.restore_numbers(state.numbers)

    def restore_numbers(self, numbers: dict[str, int | float]) -> None:
        """Restore the counts."""
        self.step = int(numbers["step"])
        self.n_applied = int(numbers["optimizer_updates"])
        self._learning_rate.restore(numbers)
        if self.ema:
            self.ema.n_updates = int(numbers["ema_updates"])
