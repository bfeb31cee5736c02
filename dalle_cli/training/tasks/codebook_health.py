"""Detects a collapse of a discrete VAE's codebook from the held-out figures of its run.

In a collapse nearly all cells have the same few entries, and reconstructions have few colours.
There are two kinds, which need opposite remedies. If the encoder is sure of an entry before the
decoder has learnt more than mean colours, the other entries are hardly ever sampled again: the KL
term is near ln K, and nothing recovers. If the KL term outweighs the likelihood, every entry is as
good as any other: the KL term is near 0, and may yet rise.
"""

import math
from collections.abc import Callable

LOWEST_SHARE = 0.01  # perplexity, as a share of the entries; below it the codebook has collapsed
PATIENCE = 0.1  # share of the run in which few entries in use are no reason to warn
PATIENCE_IF_DIFFUSE = 0.5
TOO_SURE = "a higher `loss.kl_weight` from the first update on"
TOO_DIFFUSE = "a lower `loss.kl_weight` in its first updates"


class CollapseMonitor:
    """Called with every report of a run; warns once if the codebook has collapsed."""

    def __init__(self, vocab_size: int, steps: int, warn: Callable[[str], None]) -> None:
        self._vocab_size = vocab_size
        self._steps = steps
        self._warn = warn
        self._has_warned = False

    def __call__(self, done: int, figures: dict[str, float]) -> None:
        """Check the figures after `done` updates.

        Blank cells don't count: flat ground needs few entries.
        """
        in_use = figures.get("valid/perplexity_without_blanks")
        if in_use is None or self._has_warned or in_use >= LOWEST_SHARE * self._vocab_size:
            return

        is_sure = figures["valid/kl_per_cell"] > math.log(self._vocab_size) / 2
        if done >= (PATIENCE if is_sure else PATIENCE_IF_DIFFUSE) * self._steps:
            self._has_warned = True
            remedy = TOO_SURE if is_sure else TOO_DIFFUSE
            self._warn(
                f"the codebook has collapsed: held-out pictures use {in_use:.1f} of its "
                f"{self._vocab_size} entries (perplexity). Begin a new run with {remedy}, "
                "and, for flat pictures, with a floor such as `loss.min_log_scale=-1.0`"
            )
