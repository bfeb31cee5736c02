"""What a sharded transformer takes, at the paper's size, against the paper's own figures."""

from collections.abc import Callable
from itertools import pairwise
from typing import cast

import pytest
import torch

from dalle_cli.commands.reports.group_cost import group_facts
from dalle_cli.loading import build_largest_model
from dalle_cli.models.transformer import Transformer
from dalle_cli.recipe import load_recipe
from dalle_cli.runtime.processes.ranks import Ranks
from dalle_cli.training.engines.powersgd import PowerSGD
from dalle_cli.training.engines.shard_places import place_of

GIB = 2**30


def facts_of(*overrides: str, recipe: str = "transformer/paper") -> tuple[dict, Transformer]:
    recipe = load_recipe(recipe, list(overrides), kind="transformer")
    with torch.device("meta"):
        transformer = cast(Transformer, build_largest_model(recipe))
    return group_facts(recipe, transformer)["groups"], transformer


def test_messages_are_the_papers_share_of_uncompressed_ones() -> None:
    """Ramesh et al. 2021, appendix E, table 1: a rank of 896 at width 3,968 leaves 5 r / (8 d).

    In 16 bits, half of that: what was fp32 uncompressed is 16 bits compressed.
    """
    groups, transformer = facts_of()
    of_matrices = sum(p.numel() for p in transformer.matrices())
    of_others = sum(p.numel() for p in transformer.parameters()) - of_matrices
    for n_machines in (8, 32, 128):
        ring = 2 * (n_machines - 1) / n_machines * 4 / 8
        expected = ring * (of_matrices * 5 * 896 / (8 * 3968) / 2 + of_others)
        found = groups[f"{n_machines} x 8"]
        assert found["sent_between_gib"] * GIB == pytest.approx(expected, rel=1e-3)
        plain = ring * (of_matrices + of_others)
        assert found["uncompressed_between_gib"] * GIB == pytest.approx(plain, rel=1e-3)


def test_each_micro_batch_gathers_twice_and_reduces_once() -> None:
    groups, transformer = facts_of()
    once = 4 * sum(p.numel() for p in transformer.parameters()) * 7 / 8
    for n_machines, n_micro_batches in ((8, 16), (32, 4), (128, 1)):
        found = groups[f"{n_machines} x 8"]["sent_inside_gib"] * GIB
        assert found == pytest.approx(3 * n_micro_batches * once, rel=1e-3)


def test_moments_in_fp32_and_compression_take_their_memory() -> None:
    _, transformer = facts_of()
    of_matrices = sum(p.numel() for p in transformer.matrices())
    small, fp32, plain = (
        facts_of(*overrides)[0]["8 x 8"]["state_gib"] * GIB
        for overrides in ([], ["optimizer.moments=fp32"], ["powersgd.rank=0"])
    )
    assert fp32 - small == pytest.approx(4 * of_matrices / 8, rel=0.15)
    assert small - plain > 2 * of_matrices / 8


def test_errors_in_16_bits_save_half_of_the_old_and_of_the_new_ones() -> None:
    _, transformer = facts_of()
    of_matrices = sum(p.numel() for p in transformer.matrices())
    small, large = (
        facts_of("optimizer.moments=fp32", f"powersgd.buffers={buffers}")[0]["8 x 8"]["state_gib"]
        for buffers in ("paper", "fp32")
    )
    assert (large - small) * GIB == pytest.approx(2 * 2 * of_matrices / 8, rel=0.1)


def passed_on(n_values: int, n_ranks: int, n_rounds: int) -> list[int]:
    """Play a ring: in each round, every rank passes on a part of the values; count what it sends.

    A gather or a scatter takes n_ranks - 1 rounds, a sum both of them.
    """
    edges = [n_values * i // n_ranks for i in range(n_ranks + 1)]
    parts = [end - start for start, end in pairwise(edges)]
    sent = [0] * n_ranks
    for turn in range(n_rounds):
        for rank in range(n_ranks):
            sent[rank] += parts[(rank - turn) % n_ranks]
    return sent


def test_messages_take_the_time_of_their_bytes_counted_one_by_one() -> None:
    """Of two GPUs in each machine, whose shards are those of training."""
    size, rank, batch = 2, 8, 64
    groups, transformer = facts_of(
        f"runtime.shard_group={size}",
        f"powersgd.rank={rank}",
        f"training.global_batch_size={batch}",
        "runtime.micro_batch_size=1",
        recipe="transformer/tiny",
    )
    matrices = {id(matrix) for matrix in transformer.matrices()}
    of_gpus = [0] * size  # values that each gives to the sum between machines
    for ordinal in range(size):
        shards = {}
        for name, p in transformer.named_parameters():
            is_matrix = id(p) in matrices
            place = place_of(p.shape, Ranks(ordinal, size), is_matrix=is_matrix)
            shape = place.of(p).shape
            if is_matrix:
                shards[name] = (shape[0], shape[1])
            else:
                of_gpus[ordinal] += shape.numel()
        powersgd = PowerSGD(shards, rank // size, seed=0, n_ranks=1, device=torch.device("cpu"))
        of_gpus[ordinal] += powersgd.bytes_sent() // 4

    n_parameters = sum(p.numel() for p in transformer.parameters())
    for n_machines in (8, 32):
        found = groups[f"{n_machines} x {size}"]
        n_rounds = 2 * (n_machines - 1)
        by_machine = [
            4 * sum(sent)
            for sent in zip(*(passed_on(n, n_machines, n_rounds) for n in of_gpus), strict=True)
        ]
        seconds = max(by_machine) * 8 / 25e9
        assert found["seconds_between"]["25 Gbit/s"] == pytest.approx(seconds, rel=0.01)

        n_micro_batches = batch // (n_machines * size)
        by_gpu = passed_on(n_parameters, size, 3 * n_micro_batches * (size - 1))
        seconds = 4 * max(by_gpu) / 150e9
        assert found["seconds_inside"]["150 GB/s"] == pytest.approx(seconds, rel=0.01)


@pytest.mark.thorough
def test_info_tells_what_groups_take(dalle: Callable) -> None:
    told = dalle("info", "transformer/paper")
    assert told.code == 0
    assert "128 x 8 GPUs: 120 GiB; 997 MiB (11.4 GiB uncompressed)" in told.out
    assert "with moments in 16 bits" in told.out
    assert "between machines, at 10, 25, 100 or 400 Gbit/s from each machine:" in told.out
    assert "128 x 8 GPUs: 6.69 s, 2.68 s, 0.669 s, 0.167 s" in told.out
    assert "sharded in groups" not in dalle("info", "transformer/tiny").out
