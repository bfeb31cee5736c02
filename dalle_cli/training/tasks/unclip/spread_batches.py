"""Training samples that are evenly spread, in batches, for what is measured once in a run."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from dalle_cli.data.images import BadSample
from dalle_cli.data.loader import Batch, collate, read_sample
from dalle_cli.data.preprocessing import Preprocessing
from dalle_cli.training.run import TrainingRun

BATCH_SIZE = 64


def spread_batches(
    run: TrainingRun[Any], preprocess: Preprocessing, *, most: int
) -> Iterator[Batch]:
    """Yield batches of at most so many samples, centred and with their first captions.

    Unusable samples are left out: training reports them. Positions count the samples.
    """
    portion, n_read = run.data.training, 0
    n_chosen = min(most, len(portion.indices))
    chosen = portion.indices[np.linspace(0, len(portion.indices) - 1, n_chosen).astype(int)]
    for start in range(0, n_chosen, BATCH_SIZE):
        examples = []
        for index in chosen[start : start + BATCH_SIZE]:
            try:
                examples.append(preprocess(read_sample(portion.source, int(index)), None))
            except BadSample:
                continue
        if examples:
            yield collate(examples, list(range(n_read, n_read + len(examples))), bad=[])
            n_read += len(examples)
