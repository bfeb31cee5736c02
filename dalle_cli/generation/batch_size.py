"""Automatic batch sizes: as many pictures at once as pay, where memory has room for them.

By arithmetic alone, before anything is allocated. The last bits of a picture depend on the batch
sizes, so a job chooses them once and records them.
"""

import math

from dalle_cli.generation.pipeline import BatchSizes, Pipeline

MAX_SAMPLING = {"cpu": 64, "cuda": 512}  # beyond, a picture takes no less time
MAX_DECODING = {"cpu": 16, "cuda": 64}
USABLE_SHARE = 0.8  # of free memory: allocators leave gaps, and other programs want some


def choose_batch_sizes(
    pipeline: Pipeline, n_captions: int, *, n: int, free_bytes: float, n_processes: int = 1
) -> BatchSizes:
    """Choose how many of the n pictures per caption are sampled together, and how many are decoded
    together.

    free_bytes   memory that each process may fill, see `runtime.devices.free_memory`
    n_processes  that share the work, each with so much memory: none is to be without a batch
    """
    kind = pipeline.device.type
    usable = USABLE_SHARE * free_bytes
    bound = min(MAX_SAMPLING[kind], math.ceil(n_captions * n / n_processes))

    while True:
        size = even_batch_size(n_captions, n, bound)
        # stays allocated while pictures are decoded
        sampling = pipeline.sampling_bytes(size, _captions_per_batch(size, n))
        if size == 1 or sampling + pipeline.decoding_bytes() <= usable:
            break
        bound = size - 1

    per_picture = pipeline.decoding_bytes()
    return BatchSizes(size, decoding_batch_size(per_picture, usable - sampling, kind=kind))


def decoding_batch_size(bytes_per_picture: int, usable_bytes: float, *, kind: str) -> int:
    """Choose how many pictures are decoded together on a kind of device."""
    return max(min(int(usable_bytes // bytes_per_picture), MAX_DECODING[kind]), 1)


def _captions_per_batch(size: int, n: int) -> int:
    """Count the captions whose keys and values a batch holds.

    Uneven batches hold them per sample.
    """
    if n % size == 0:
        return 1
    return size // n if size % n == 0 else size


def even_batch_size(n_captions: int, n: int, bound: int) -> int:
    """Choose a batch size of at most `bound` so that batches hold whole captions, or equal parts of
    one.

    Samples of one caption then share its keys and values, which is worth batches of half the size.
    Among the sizes that need equally many batches this is the smallest, so that little is sampled
    in vain.
    """
    if n <= bound:
        n_batches = math.ceil(n_captions / (bound // n))
        return n * math.ceil(n_captions / n_batches)

    part = max(divisor for divisor in range(1, bound + 1) if n % divisor == 0)
    if 2 * part >= bound:
        return part

    n_batches = math.ceil(n_captions * n / bound)
    return math.ceil(n_captions * n / n_batches)
