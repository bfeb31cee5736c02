"""How wide pictures are drawn.

No wider than pays or memory holds, and reckoned no less than what is taken.
"""

import itertools
import math
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any
from weakref import finalize

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from dalle_cli.data.tokenizer import Tokenizer
from dalle_cli.generation.batch_size import choose_batch_sizes, even_batch_size
from dalle_cli.generation.dalle import DallePipeline
from dalle_cli.generation.sampling import Sampler, SamplingSettings
from dalle_cli.models.dvae import DiscreteVAE
from dalle_cli.models.transformer import Transformer
from dalle_cli.runtime.devices import free_memory

COUNTS = list(
    itertools.product([1, 2, 3, 9, 100], [1, 2, 5, 8, 33, 64, 97, 100, 512], [1, 2, 7, 63, 64])
)


@pytest.fixture(scope="module")
def painter() -> DallePipeline:
    """Large enough that what is reckoned outweighs what is not."""
    torch.manual_seed(0)
    tokenizer = Tokenizer([], "tokenizers")
    dvae = DiscreteVAE(64, 1024, n_hidden=32, n_init=16, n_groups=4, blocks_per_group=1)
    transformer = Transformer(
        tokenizer.vocab_size,
        1024,
        text_len=64,
        grid_size=8,
        n_layers=4,
        d_model=128,
        n_heads=4,
        kernel_size=3,
    )
    models = [model.eval().requires_grad_(False) for model in (transformer, dvae)]
    return DallePipeline(*models, tokenizer, torch.device("cpu"))


def guided(painter: DallePipeline, guidance: float) -> DallePipeline:
    return replace(painter, sampling=SamplingSettings(guidance=guidance))


class Alive(TorchDispatchMode):
    """Counts the bytes of tensors that come to be, while they live."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.most = 0
        self._known: set[int] = set()

    def __torch_dispatch__(
        self, operation: Any, types: Any, arguments: Any = (), options: Any = None
    ) -> Any:
        result = operation(*arguments, **(options or {}))
        given = {
            leaf.untyped_storage()._cdata
            for leaf in tree_leaves((arguments, options))
            if is_dense(leaf)
        }
        for leaf in tree_leaves(result):
            if is_dense(leaf) and leaf.untyped_storage()._cdata not in given | self._known:
                self._note(leaf.untyped_storage())
        return result

    def _note(self, storage: torch.UntypedStorage) -> None:
        self._known.add(storage._cdata)
        self.now += storage.nbytes()
        self.most = max(self.most, self.now)
        finalize(storage, self._forget, storage._cdata, storage.nbytes())

    def _forget(self, key: int, n_bytes: int) -> None:
        self._known.discard(key)
        self.now -= n_bytes


def is_dense(leaf: object) -> bool:
    return isinstance(leaf, torch.Tensor) and leaf.layout == torch.strided


@contextmanager
def counted() -> Iterator[Alive]:
    with torch.inference_mode(False), torch.no_grad(), Alive() as alive:
        yield alive


@pytest.mark.thorough
@pytest.mark.parametrize("guidance", [1.0, 2.0])
@pytest.mark.parametrize(("n_samples", "n_captions"), [(64, 1), (64, 64), (8, 8)])
def test_sampling_takes_no_more_than_is_reckoned(
    n_samples: int, n_captions: int, guidance: float, painter: DallePipeline
) -> None:
    captions = [str(i) for i in range(n_captions) for _ in range(n_samples // n_captions)]
    text_tokens, uniforms = painter.text_tokens(captions), torch.rand(n_samples, 64)
    with counted() as alive:
        Sampler(painter.transformer, SamplingSettings(1.0, 0, 0.9, guidance)).sample(
            text_tokens, uniforms
        )
    reckoned = guided(painter, guidance).sampling_bytes(n_samples, n_captions)
    assert 0.3 * reckoned < alive.most < reckoned


@pytest.mark.parametrize("n_samples", [1, 5])
def test_decoding_takes_no_more_than_is_reckoned(n_samples: int, painter: DallePipeline) -> None:
    with counted() as alive:
        painter.dvae.decode(torch.zeros(n_samples, 64, dtype=torch.int64))
    assert (
        0.3 * n_samples * painter.decoding_bytes()
        < alive.most
        < n_samples * painter.decoding_bytes()
    )


@pytest.mark.parametrize(("n_captions", "n", "bound"), COUNTS)
def test_width_is_within_bounds_and_needs_few_batches(n_captions: int, n: int, bound: int) -> None:
    width = even_batch_size(n_captions, n, bound)
    assert 1 <= width <= bound
    assert math.ceil(n_captions * n / width) <= 2 * math.ceil(n_captions * n / bound) + 1


@pytest.mark.parametrize(
    ("n_captions", "n", "bound", "width"),
    [
        (1, 8, 64, 8),  # no wider than there are pictures
        (3, 8, 64, 24),
        (20, 8, 64, 56),  # 3 batches of at most 7 captions
        (9, 50, 64, 50),
        (1, 512, 64, 64),
        (2, 100, 64, 50),
        (1, 97, 64, 49),  # a prime has no parts
        (100, 1, 64, 50),
        (1, 512, 1, 1),
    ],
)
def test_batches_hold_captions_whole_or_even_parts_of_one(
    n_captions: int, n: int, bound: int, width: int
) -> None:
    assert even_batch_size(n_captions, n, bound) == width


def most_captions(n_captions: int, n: int, width: int) -> int:
    """Count the captions whose keys and values one batch needs.

    As many as samples, where they come unevenly.
    """
    owners = [place // n for place in range(n_captions * n)]
    most = 0
    for first in range(0, len(owners) - width + 1, width):
        counts = Counter(owners[first : first + width])
        most = max(most, len(counts) if len(set(counts.values())) == 1 else width)
    return most


@pytest.mark.parametrize("is_guided", [False, True])
@pytest.mark.parametrize(("n_captions", "n"), [(1, 64), (2, 32), (64, 1), (1, 61)])
def test_less_memory_draws_narrower_and_never_more_than_it_holds(
    n_captions: int, n: int, is_guided: bool, painter: DallePipeline
) -> None:
    free = 10**9
    pipeline = guided(painter, 2.0 if is_guided else 1.0)
    widths = [choose_batch_sizes(pipeline, n_captions, n=n, free_bytes=free)]
    assert widths[0].sampling == 64 or n == 61
    while widths[-1].sampling > 1:
        free //= 2
        widths.append(choose_batch_sizes(pipeline, n_captions, n=n, free_bytes=free))
        decode = widths[-1].sampling
        n_own = most_captions(n_captions, n, decode)
        needed = pipeline.sampling_bytes(decode, n_own)
        assert decode == 1 or needed + widths[-1].decoding * painter.decoding_bytes() <= free
    assert [one.sampling for one in widths] == sorted(
        (one.sampling for one in widths), reverse=True
    )
    assert len(widths) > 3 and widths[-1].decoding < widths[0].decoding


def test_every_process_has_work(painter: DallePipeline) -> None:
    assert choose_batch_sizes(painter, 1, n=64, free_bytes=10**9, n_processes=2).sampling == 32
    assert choose_batch_sizes(painter, 3, n=8, free_bytes=10**9, n_processes=2).sampling == 8
    assert choose_batch_sizes(painter, 1, n=1, free_bytes=10**9, n_processes=4).sampling == 1


def test_computer_has_memory_to_spare() -> None:
    assert 2**20 < free_memory(torch.device("cpu")) < 2**50
