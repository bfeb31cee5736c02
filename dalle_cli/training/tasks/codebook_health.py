"""Whether a discrete VAE's codebook is in use, by the held-out figures of its run.

In a collapse nearly all cells have the same few entries, and reconstructions few colours. There are two kinds, which
ask for opposite things. Where the encoder is sure of an entry before the decoder has learnt more than mean colours, the
others are hardly drawn again: the KL term is near ln K, and nothing mends. Where the KL term outweighs the likelihood,
every entry is as good as any other: it is near 0, and may yet rise.
"""

import math
from collections.abc import Callable

LOWEST_SHARE = 0.01  # of the entries, as many used alike: less is a collapse
PATIENCE, PATIENCE_IF_DIFFUSE = (
    0.1,
    0.5,
)  # shares of the run in which few entries in use are no news
TOO_SURE = "a higher `loss.kl_weight` from the first update on"
TOO_DIFFUSE = "a lower `loss.kl_weight` in its first updates"


class CollapseMonitor:
    """Hears every report of a run, and tells once where the codebook has collapsed."""

    def __init__(self, vocab_size: int, steps: int, warn: Callable[[str], None]) -> None:
        self._vocab_size = vocab_size
        self._steps = steps
        self._warn = warn
        self._is_told = False

    def __call__(self, done: int, figures: dict[str, float]) -> None:
        """Take the figures after `done` updates; flat ground needs few entries, so blank cells don't count."""
        in_use = figures.get("valid/perplexity_without_blanks")
        if in_use is None or self._is_told or in_use >= LOWEST_SHARE * self._vocab_size:
            return
        is_sure = figures["valid/kl_per_cell"] > math.log(self._vocab_size) / 2
        if done >= (PATIENCE if is_sure else PATIENCE_IF_DIFFUSE) * self._steps:
            self._is_told = True
            self._warn(
                f"the codebook has collapsed: held-out pictures use it as {in_use:.1f} of its {self._vocab_size} "
                f"entries would be used (perplexity). Begin a new run with {TOO_SURE if is_sure else TOO_DIFFUSE}, "
                "and, for flat pictures, with a floor such as `loss.min_log_scale=-1.0`"
            )
