"""How many pictures are drawn side by side: as many as pay, where memory holds them.

By arithmetic alone, before anything is allocated. What a run's pictures depend on to the last bit is chosen once and
recorded by whoever asks. Axes: T text slots, D model width, Vi image vocabulary, H height and W width of a picture.
"""

import math

import torch

from dalle_cli.generation.cached_transformer import kv_cache_bytes
from dalle_cli.generation.dalle import DallePipeline
from dalle_cli.generation.pipeline import BatchSizes
from dalle_cli.models.dvae import DiscreteVAE
from dalle_cli.models.transformer import Transformer

WIDEST = {"cpu": 64, "cuda": 512}  # beyond, a picture takes no less time
WIDEST_SLICE = {"cpu": 16, "cuda": 64}
SHARE = 0.8  # of what is free: allocators leave gaps, and others want some
FP32 = 4  # bytes

BYTES_OF_CHOICE = (
    64  # a logit's: of caption and empty one, probability, what halving compares, and sums in fp64
)
VALUES_OF_SLOT = (
    32  # a width's, on the way through a block: normed, fused, expanded and again in fp32
)
VALUES_OF_PIXEL = (
    8  # a channel's next to the pixels: twice as many come in, pass a ReLU, and are laid out anew
)


def choose_batch_sizes(
    pipeline: DallePipeline,
    n_captions: int,
    n: int,
    is_guided: bool,
    free: float,
    n_processes: int = 1,
) -> BatchSizes:
    """Choose how many of n pictures each of so many captions are sampled side by side, and decoded at a time.

    free         bytes of memory, see `free_memory`
    n_processes  that draw them, each with so much memory: none is to be without work
    """
    kind = pipeline.device.type
    bound = min(WIDEST[kind], math.ceil(n_captions * n / n_processes))
    while True:
        width = even_batch_size(n_captions, n, bound)
        n_own = (
            1 if n % width == 0 else width // n if width % n == 0 else width
        )  # captions in a batch
        taken = sampling_bytes(
            pipeline.transformer, width, n_own, pipeline.dtype, is_guided
        )  # and kept while decoding
        if width == 1 or taken + decoding_bytes(pipeline.dvae) <= SHARE * free:
            break
        bound = width - 1
    n_at_once = int((SHARE * free - taken) // decoding_bytes(pipeline.dvae))
    return BatchSizes(width, max(min(n_at_once, WIDEST_SLICE[kind]), 1))


def even_batch_size(n_captions: int, n: int, bound: int) -> int:
    """Choose a width of at most `bound`, so that batches hold captions whole, or parts of one that are equally large.

    Samples of one caption share its keys and values then, which is worth batches of half the width. Among the widths
    that need as few batches it is the least, so that little is drawn in vain.
    """
    if n <= bound:
        n_batches = math.ceil(n_captions / (bound // n))
        return n * math.ceil(n_captions / n_batches)
    part = max(divisor for divisor in range(1, bound + 1) if n % divisor == 0)
    if 2 * part >= bound:
        return part
    n_batches = math.ceil(n_captions * n / bound)
    return math.ceil(n_captions * n / n_batches)


def sampling_bytes(
    transformer: Transformer, n_samples: int, n_captions: int, dtype: torch.dtype, is_guided: bool
) -> int:
    """Count what sampling takes beside the model: its own copy of the weights, keys and values, and what passes by."""
    if is_guided:  # each sample and each caption once more, empty
        n_samples, n_captions = 2 * n_samples, 2 * n_captions
    n_text, width = transformer.text_len, transformer.start_of_text.numel()
    weights = sum(parameter.numel() for parameter in transformer.parameters()) * dtype.itemsize
    choosing = n_samples * transformer.image_vocab_size * BYTES_OF_CHOICE
    slots = n_samples + n_captions * n_text
    passing = slots * width * VALUES_OF_SLOT * FP32
    cache = kv_cache_bytes(transformer, n_samples, n_captions=n_captions, dtype=dtype)
    return weights + cache + choosing + passing


def decoding_bytes(dvae: DiscreteVAE) -> int:
    """Count what the decoding of one picture takes at its widest, next to the pixels."""
    return VALUES_OF_PIXEL * FP32 * dvae.decoder.trunk.output.in_channels * dvae.image_size**2
