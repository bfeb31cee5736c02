"""What every part of an evaluation is measured with: its plan, its folder and its judges."""

import math
import platform
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import PIL
import torch

from dalle_cli import __version__
from dalle_cli.config import DVAEModelTable
from dalle_cli.console import Terminal
from dalle_cli.evaluation.evaluated_pairs import spread
from dalle_cli.evaluation.evaluation_folder import EvaluationFolder, Part
from dalle_cli.evaluation.judges import Judges
from dalle_cli.evaluation.picture_sets import GeneratedPictures, SourcePictures, centred_pictures
from dalle_cli.evaluation.plan import EvaluationPlan
from dalle_cli.evaluation.sampling import read_samples
from dalle_cli.runtime.devices import explain_out_of_memory
from dalle_cli.runtime.precision import Precision
from dalle_cli.storage.model_folder import read_model_table
from dalle_cli.storage.run_dir import dvae_model_dir

Measure = Callable[[Callable[[], None]], Part]  # from what counts pictures to a part


@dataclass(frozen=True)
class Measurement:
    """A planned evaluation whose pictures are generated."""

    plan: EvaluationPlan
    folder: EvaluationFolder
    judges: Judges
    device: torch.device
    precision: Precision
    terminal: Terminal

    def part(self, name: str, key: Mapping[str, Any], n_pictures: int, measure: Measure) -> Part:
        """Return a part that was kept, or measure it under a line of progress and keep it.

        key  what it depends on beyond the plan
        """

        def measure_now() -> Part:
            self.terminal.say(f"measuring {name.replace('_', ' ')}: {n_pictures:,} pictures")
            progress = self.terminal.progress(n_pictures, 0, "picture")
            with explain_out_of_memory(), progress as line:
                part = measure(line.advance)
            return _finite(replace(part, protocol={**part.protocol, "versions": _versions()}))

        return self.folder.measured(name, key, measure_now)

    @cached_property
    def side(self) -> int:
        """The side of a generated picture, to which real ones are scaled as well."""
        table = read_model_table(dvae_model_dir(self.plan.run))
        assert isinstance(table, DVAEModelTable), "a transformer's run has a whole dVAE"
        return table.image_size

    @property
    def resize(self) -> str:
        """How both sides of a comparison are scaled."""
        return f"the centred square, scaled by area to {self.side} pixels, on both sides"

    def real_pictures(self, most: int | None = None) -> SourcePictures:
        """Return the pictures of the evaluated pairs, or at most so many, evenly spread."""
        chosen = self.plan.pairs.indices
        if most is not None:
            chosen = chosen[spread(len(chosen), most)]
        return centred_pictures(self.plan.pairs.source, chosen, self.side)

    @cached_property
    def generated(self) -> GeneratedPictures:
        """A picture of each caption."""
        return read_samples(self.folder.samples)

    @property
    def judge(self) -> dict[str, Any]:
        """The identity of the CLIP that judges, as JSON."""
        return {"clip": self.judges.clip}


def _finite(part: Part) -> Part:
    """Leave out what is no finite number, with a warning: weights may be damaged."""
    figures = {name: value for name, value in part.figures.items() if math.isfinite(value)}
    odd = [f"{name} is not a finite number" for name in part.figures if name not in figures]
    return replace(part, figures=figures, warnings=[*part.warnings, *odd])


def _versions() -> dict[str, str]:
    return {
        "dalle": __version__,
        "torch": torch.__version__,
        "numpy": np.__version__,
        "pillow": PIL.__version__,
        "python": platform.python_version(),
    }
