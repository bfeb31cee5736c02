"""Figures of a model on held-out pairs: the part that every evaluation has."""

from collections.abc import Callable

import torch

from dalle_cli.errors import DalleError, printable
from dalle_cli.evaluation.evaluation_folder import Part
from dalle_cli.evaluation.figures.held_out import (
    HeldOutFigures,
    clip_figures,
    dvae_figures,
    transformer_figures,
)
from dalle_cli.evaluation.parts.measurement import Measurement
from dalle_cli.generation.dalle import DallePipeline
from dalle_cli.generation.sampling import SamplingSettings
from dalle_cli.loading import load_dvae
from dalle_cli.runtime.precision import apply_precision
from dalle_cli.scoring.clip_scorer import load_clip_scorer


def held_out_part(measurement: Measurement) -> Part:
    """Measure a model on the pairs of the plan; raises DalleError where none can be read."""

    def measure(advance: Callable[[], None]) -> Part:
        found = _figures(measurement, advance)
        if not found.n_pairs:
            name = printable(measurement.plan.pairs.source.name)
            raise DalleError(f"not one usable sample in {name}", "`dalle data check` says why")
        protocol = {"pairs": found.n_pairs, "bad": len(found.bad)}
        return Part(found.figures, protocol, _warnings(found))

    return measurement.part("held_out", {}, len(measurement.plan.pairs.indices), measure)


def _warnings(found: HeldOutFigures) -> list[str]:
    if not found.bad:
        return []
    key, reason = next(iter(found.bad.items()))
    n_all = found.n_pairs + len(found.bad)
    example = f"first {printable(key)}: {reason}"
    return [f"{len(found.bad):,} of {n_all:,} pairs could not be read, {example}"]


def _figures(measurement: Measurement, advance: Callable[[], None]) -> HeldOutFigures:
    plan, device, precision = measurement.plan, measurement.device, measurement.precision
    source, indices = plan.pairs.source, plan.pairs.indices

    if plan.kind == "transformer":
        pipeline = DallePipeline.open(
            plan.run,
            device=device,
            precision=precision,
            sampling=SamplingSettings(),
            seed=plan.settings.seed,
        )
        return transformer_figures(pipeline, source, indices, advance=advance)
    if plan.kind == "clip":
        scorer = load_clip_scorer(str(plan.run), None, device=device, precision=precision)
        return clip_figures(scorer, source, indices, advance=advance)

    dvae = load_dvae(plan.run)
    # torch's stubs lack memory_format
    dvae.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    apply_precision(dvae, precision, device)
    return dvae_figures(dvae, source, indices, device=device, advance=advance)
