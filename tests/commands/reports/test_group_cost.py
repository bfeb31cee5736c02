"""What a sharded transformer takes, at the paper's size, against the paper's own figures."""

from collections.abc import Callable
from typing import cast

import pytest
import torch

from dalle_cli.commands.reports.group_cost import group_facts
from dalle_cli.loading import build_largest_model
from dalle_cli.models.transformer import Transformer
from dalle_cli.recipe import load_recipe

GIB = 2**30


def facts_of(*overrides: str) -> tuple[dict, Transformer]:
    recipe = load_recipe("transformer/paper", list(overrides), kind="transformer")
    with torch.device("meta"):
        transformer = cast(Transformer, build_largest_model(recipe))
    return group_facts(recipe, transformer)["groups"], transformer


def test_messages_are_the_papers_share_of_uncompressed_ones() -> None:
    """Ramesh et al. 2021, appendix E, table 1: a rank of 896 at width 3,968 leaves 5 r / (8 d)."""
    groups, transformer = facts_of()
    of_matrices = sum(p.numel() for p in transformer.matrices())
    of_others = sum(p.numel() for p in transformer.parameters()) - of_matrices
    for n_machines in (8, 32, 128):
        ring = 2 * (n_machines - 1) / n_machines * 4 / 8
        expected = ring * (of_matrices * 5 * 896 / (8 * 3968) + of_others)
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
    assert small - plain > 4 * of_matrices / 8


def test_info_tells_what_groups_take(dalle: Callable) -> None:
    told = dalle("info", "transformer/paper")
    assert told.code == 0
    assert "128 x 8 GPUs: each sends" in told.out and "with moments in 16 bits" in told.out
    assert "sharded in groups" not in dalle("info", "transformer/tiny").out
