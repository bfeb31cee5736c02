"""Whether a discrete VAE's codebook is in use, by the held-out figures of its run.

A collapse shows early and does not mend: nearly all cells have the same few entries, and reconstructions one colour.
"""

from collections.abc import Callable

LOWEST_SHARE = 0.01  # of the entries, as many used alike: less is a collapse
PATIENCE = 0.1  # of the run, in which few entries in use are no news


class CollapseWatch:
    """Hears every report of a run, and tells once where the codebook has collapsed."""

    def __init__(self, vocab_size: int, steps: int, warn: Callable[[str], None]) -> None:
        self._vocab_size = vocab_size
        self._steps = steps
        self._warn = warn
        self._is_told = False

    def __call__(self, done: int, figures: dict[str, float]) -> None:
        """Take the figures after `done` updates; flat ground needs few entries, so blank cells don't count."""
        in_use = figures.get("valid/perplexity_without_blanks")
        if in_use is None or self._is_told or done < PATIENCE * self._steps:
            return
        if in_use < LOWEST_SHARE * self._vocab_size:
            self._is_told = True
            self._warn(
                f"the codebook has collapsed: held-out pictures use it as {in_use:.1f} of its {self._vocab_size} "
                "entries would be used (perplexity). Begin a new run with a lower `loss.kl_weight` in its first "
                "updates, or, for flat pictures, with a floor such as `loss.min_log_scale=-1.0`"
            )
