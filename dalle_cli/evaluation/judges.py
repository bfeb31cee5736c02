"""What judges generated pictures: a CLIP that the user names, and the Inception network of FID."""

from dataclasses import dataclass
from pathlib import Path

from dalle_cli.console import Terminal
from dalle_cli.errors import DalleError
from dalle_cli.evaluation.figures.inception import (
    INSTALL,
    Inception,
    has_inception_library,
    load_inception,
)
from dalle_cli.evaluation.plan import EvaluationSettings
from dalle_cli.runtime.distributed import World
from dalle_cli.runtime.precision import Precision
from dalle_cli.scoring.clip_scorer import ClipScorer, load_clip_scorer

LEFT_OUT = "FID and the Inception Score are left out"


@dataclass(frozen=True)
class Judges:
    """The CLIP that scores pictures and the network of FID, each of which may be missing."""

    scorer: ClipScorer | None
    inception: Inception | None

    @property
    def clip(self) -> str | None:
        """The identity of the CLIP."""
        return self.scorer.identity if self.scorer else None


def load_judges(
    settings: EvaluationSettings, *, precision: Precision, world: World, terminal: Terminal
) -> Judges:
    """Load the CLIP on every rank, since it ranks candidates, and Inception on the main one.

    Raises DalleError where something that was named cannot be loaded.
    """
    scorer = None
    if settings.clip is not None:
        scorer = load_clip_scorer(
            settings.clip, settings.vocabulary, device=world.device, precision=precision
        )
    inception = _load_inception(settings.inception, world, terminal) if world.is_main else None
    return Judges(scorer, inception)


def _load_inception(weights: Path | None, world: World, terminal: Terminal) -> Inception | None:
    if weights is None and not has_inception_library():
        terminal.say(f"{LEFT_OUT}: they need torch-fidelity; {INSTALL}")
        return None
    try:
        return load_inception(weights, world.device)
    except DalleError as error:
        if weights is not None:
            raise
        terminal.warn(f"{LEFT_OUT}: {error.message}; {error.hint}")
        return None
