"""The variances that a diffusion prior samples with, `variances.json`, written and read.

The optimal variance of a step needs a measurement of the trained prior (Bao et al. 2022, see
`models.diffusion.analytic_variance`), which belongs to its weights and to no others.
"""

import hashlib
from typing import Annotated, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor

from dalle_cli.config import Positive
from dalle_cli.errors import DalleError
from dalle_cli.models.diffusion.analytic_variance import analytic_variance
from dalle_cli.models.diffusion.noise_schedules import NoiseSchedule
from dalle_cli.storage.atomic import write_file
from dalle_cli.storage.integrity.checksums import checksummed_json, load_checksummed_json
from dalle_cli.storage.run_dir import WEIGHTS, RunDir

VARIANCES_SCHEMA: Literal[1] = 1

Variance = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class PriorVariances(BaseModel):
    """What was measured of a prior.

    weights         SHA-256 of the file of its weights
    n_samples       that it was measured on
    steps           of the training schedule, ascending: the grid that samples are taken on
    clean_variance  by step, the mean squared error of the prior per entry, in the scale of `target`
    data_variance   of an entry of the embeddings
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    schema_version: Literal[1] = VARIANCES_SCHEMA
    weights: str
    n_samples: Positive
    steps: Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=2, max_length=100_000)]
    clean_variance: list[Variance]
    data_variance: Variance

    def log_variances(self, schedule: NoiseSchedule) -> Tensor:
        """Return the log variances for ancestral sampling on the grid, float64 [N].

        schedule  that of training; raises ValueError where the steps are not in it
        """
        grid = schedule.respaced(self.steps)
        measured = torch.tensor(self.clean_variance, dtype=torch.float64)
        variances = analytic_variance(grid, measured, data_variance=self.data_variance)
        # at the last step, which adds no noise, it may be 0
        return variances.clamp(min=torch.finfo(torch.float64).tiny).log()

    def write(self, run: RunDir) -> None:
        """Write `variances.json`, complete or not at all."""
        write_file(run.variances, checksummed_json(self.model_dump()))


def weights_checksum(run: RunDir) -> str:
    """Hash the file of a model's weights."""
    with (run.model / WEIGHTS).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_variances(run: RunDir) -> PriorVariances | None:
    """Read the variances of a run's or an export's weights; None if there are none for them.

    Raises DalleError where the file is damaged.
    """
    if not run.variances.is_file():
        return None
    try:
        content = load_checksummed_json(run.variances, since=VARIANCES_SCHEMA)
        content.pop("sha256", None)
        found = PriorVariances.model_validate(content)
    except (OSError, ValueError, AttributeError, ValidationError) as error:
        hint = "delete it: the prior then samples with other variances"
        raise DalleError(f"{run.variances} is damaged: {error}", hint) from error
    if len(found.steps) != len(found.clean_variance):
        raise DalleError(f"{run.variances} is damaged: it has not one variance for each step")
    return found if found.weights == weights_checksum(run) else None


def export_variances(run: RunDir, target: RunDir) -> None:
    """Write the variances of a run's weights for an export of them, halved or not."""
    found = read_variances(run)
    if found is not None:
        found.model_copy(update={"weights": weights_checksum(target)}).write(target)
