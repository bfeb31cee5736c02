"""All parts of an evaluation in turn, and what they add up to.

Which parts there are depends on the kind of model, on what judges its pictures, and on whether its
training pictures are at hand.
"""

import json
from collections.abc import Sequence
from typing import Any

from dalle_cli.errors import printable
from dalle_cli.evaluation.evaluation_folder import Evaluation, Part
from dalle_cli.evaluation.parts.generated_pictures import (
    clip_part,
    diversity_part,
    inception_part,
)
from dalle_cli.evaluation.parts.held_out_pairs import held_out_part
from dalle_cli.evaluation.parts.measurement import Measurement
from dalle_cli.evaluation.parts.training_copies import copies_part, find_training_pictures

FEWEST_PICTURES = 2  # of each side, that have a covariance
# what the figures of several runs must have in common to be compared
OF_ALL = ("data", "split", "pairs", "precision")
OF_SAMPLES = ("captions", "candidates", "ranked_by", "seed")


def measure_all(measurement: Measurement, name: str) -> Evaluation:
    """Measure every part that is missing, write `evaluation.json`, and return what is in it.

    name  of the run, for tables

    Raises DalleError where no pair can be read.
    """
    plan, parts = measurement.plan, {"held_out": held_out_part(measurement)}
    warnings = list(plan.pairs.warnings)
    n_compared = min(len(plan.captions), parts["held_out"].protocol["pairs"])
    if n_compared >= FEWEST_PICTURES:
        parts |= _sample_parts(measurement)
    elif plan.captions:
        warnings.append("generated pictures are not compared: there are too few pairs")

    warnings += [warning for part in parts.values() for warning in part.warnings]
    evaluation = Evaluation(
        run=name,
        kind=plan.kind,
        protocol={**_protocol(measurement), **{key: part.protocol for key, part in parts.items()}},
        figures={name: value for part in parts.values() for name, value in part.figures.items()},
        warnings=warnings,
    )
    measurement.folder.write(evaluation)
    return evaluation


def _sample_parts(measurement: Measurement) -> dict[str, Part]:
    parts: dict[str, Part] = {}
    judges = measurement.judges
    if judges.inception is not None:
        parts["inception"] = inception_part(measurement, judges.inception)
    if judges.scorer is not None:
        parts["clip"] = clip_part(measurement, judges.scorer)
    parts["diversity"] = diversity_part(measurement)

    training = find_training_pictures(measurement)
    if training is not None:
        parts["nearest"] = copies_part(measurement, training)
    return parts


def _protocol(measurement: Measurement) -> dict[str, Any]:
    """Return what all parts have in common: the model, the pairs, how many pictures of what."""
    plan = measurement.plan
    return {
        **{key: value for key, value in plan.job.items() if key != "command"},
        "source": printable(plan.pairs.source.name),
        "available": plan.pairs.n_available,
    }


def protocol_differences(evaluations: Sequence[Evaluation]) -> list[str]:
    """Return a warning that names what was not the same for all runs, if anything was not."""
    sampled = [one for one in evaluations if one.kind == "transformer"]
    groups = [(key, evaluations) for key in OF_ALL] + [(key, sampled) for key in OF_SAMPLES]
    differing = [
        key
        for key, group in groups
        if len({json.dumps(one.protocol.get(key)) for one in group}) > 1
    ]
    if not differing:
        return []
    return [f"figures of these runs can't be compared: other {', '.join(differing)}"]
