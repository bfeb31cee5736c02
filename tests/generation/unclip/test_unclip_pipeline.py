"""DALL-E 2 as a pipeline: a picture depends on caption, number and seed, and on nothing else."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from toy_unclip import code_prior_parts, diffusion_prior_parts, guesser, sampler, scorer

from dalle_cli.generation.batch_size import choose_batch_sizes
from dalle_cli.generation.pipeline import BatchSizes, Candidate, GeneratedBatch, Pipeline
from dalle_cli.generation.unclip.pipeline import UnclipPipeline
from dalle_cli.generation.unclip.prior_samplers import NoGuesser, TextGuesser

PIPELINE = [name for name in vars(Pipeline) if not name.startswith("_")]
CAPTIONS = ["a ring", "a red ring", "a red", "a ring"]
CANDIDATES = [Candidate(caption, number) for caption in CAPTIONS for number in range(3)][:11]
ALL = range(len(CANDIDATES))
WIDTHS = BatchSizes(sampling=4, decoding=2)


@pytest.fixture(scope="module")
def pipeline() -> UnclipPipeline:
    return UnclipPipeline(
        guesser(diffusion_prior_parts(), prior_steps=4), sampler(steps=3), scorer(), seed=5
    )


def generated(
    pipeline: UnclipPipeline, positions: Sequence[int] = ALL, sizes: BatchSizes = WIDTHS
) -> dict[int, tuple[Candidate, bytes]]:
    found = {}
    for batch in pipeline.generate(CANDIDATES, positions, sizes):
        for i in batch.requested:
            assert batch.position + i not in found
            found[batch.position + i] = batch.candidates[i], batch.pictures[i].tobytes()
    assert list(found) == sorted(found)
    return found


def test_it_is_a_pipeline(pipeline: UnclipPipeline) -> None:
    checked: Pipeline = pipeline
    assert all(hasattr(checked, name) for name in PIPELINE)


@pytest.mark.parametrize("positions", [range(5, 11), [1, 2, 9], range(0), [10]], ids=str)
def test_some_are_generated_as_among_all(
    positions: Sequence[int], pipeline: UnclipPipeline
) -> None:
    everything = generated(pipeline)
    assert generated(pipeline, positions) == {p: everything[p] for p in positions}


@pytest.mark.parametrize("sizes", [BatchSizes(3, 3), BatchSizes(16, 5), BatchSizes(1, 1)], ids=str)
def test_other_batches_change_no_more_than_rounding(
    sizes: BatchSizes, pipeline: UnclipPipeline
) -> None:
    usual, other = generated(pipeline), generated(pipeline, ALL, sizes)
    assert [candidate for candidate, _ in other.values()] == CANDIDATES
    for position, (_, picture) in usual.items():
        pixels = [np.frombuffer(p, np.uint8).astype(int) for p in (picture, other[position][1])]
        assert np.abs(pixels[0] - pixels[1]).max() <= 2


def test_pictures_differ_by_caption_number_and_seed(pipeline: UnclipPipeline) -> None:
    found = dict(generated(pipeline).values())
    assert len(found) == len(set(found.values())) == 9
    assert not set(found.values()) & set(
        dict(generated(replace(pipeline, seed=6)).values()).values()
    )


def test_parts_are_never_wider_than_asked_for(pipeline: UnclipPipeline) -> None:
    batches: list[GeneratedBatch] = list(pipeline.generate(CANDIDATES, ALL, WIDTHS))
    assert {len(batch.candidates) for batch in batches} == {2}
    assert {len(batch.pictures) for batch in batches} == {2}


@pytest.mark.thorough
@pytest.mark.parametrize("kind", ["codes", "text", "none"])
def test_embeddings_may_come_from_elsewhere(kind: str, pipeline: UnclipPipeline) -> None:
    others = {"text": TextGuesser(), "none": NoGuesser()}
    other = others[kind] if kind in others else guesser(code_prior_parts())
    assert len(set(generated(replace(pipeline, guesser=other)).values())) == 9
    assert generated(replace(pipeline, guesser=other)) != generated(pipeline)


def test_nothing_is_compiled_and_batches_fit_in_memory(pipeline: UnclipPipeline) -> None:
    assert not pipeline.is_compiled and pipeline.n_steps(1000) == 0
    assert pipeline.compiled(is_compiled=True) is pipeline
    sizes = choose_batch_sizes(pipeline, 3, n=8, free_bytes=1e9)
    assert sizes.sampling == 24 and 1 <= sizes.decoding <= 16
    assert choose_batch_sizes(pipeline, 3, n=8, free_bytes=0) == BatchSizes(1, 1)


def test_repeated_and_truncated_captions_are_warned_of(pipeline: UnclipPipeline) -> None:
    warnings = list(pipeline.warnings(["a ring", "a ring", "x" * 100]))
    assert len(warnings) == 2
    assert "given 2 times" in warnings[0] and "truncated to CLIP's 16 tokens" in warnings[1]
