"""Model folders: who may read them; half precision: what is rounded, what is kept."""

import os
from pathlib import Path

import pytest
import torch

from dalle_cli.storage.model_folder import half_precision, is_half_precision, write_model


@pytest.mark.skipif(os.name != "posix", reason="files have other permissions")
@pytest.mark.parametrize("mask", [0o022, 0o027])
def test_weights_may_be_read_by_whoever_may_read_other_files(mask: int, tmp_path: Path) -> None:
    before = os.umask(mask)
    try:
        write_model(tmp_path / "model", {}, {"matrix": torch.zeros(2, 2)})
        (tmp_path / "other").touch()
    finally:
        os.umask(before)
    modes = {file.stat().st_mode for file in (tmp_path / "model").iterdir()}
    assert modes == {(tmp_path / "other").stat().st_mode}


def test_only_matrices_within_range_are_rounded() -> None:
    weights = {
        "gain": torch.tensor([1 + 2.0**-20]),
        "logit_scale": torch.tensor(4.6052),
        "matrix": torch.tensor([[1 + 2.0**-20, 0.1]]),
        "kernel": torch.full((1, 1, 2, 2), 3e-5),
        "largest": torch.tensor([[65504.0]]),
        "beyond": torch.tensor([[65504.0, 65505.0]]),
        "unknown": torch.tensor([[float("nan")]]),
    }
    rounded = half_precision(weights)
    assert list(rounded) == list(weights)
    assert {name for name, weight in rounded.items() if weight.dtype == torch.float16} == {
        "matrix",
        "kernel",
        "largest",
    }
    for name, weight in weights.items():
        assert rounded[name].shape == weight.shape
        torch.testing.assert_close(rounded[name].float(), weight, rtol=1e-3, atol=0, equal_nan=True)


def test_rounding_again_changes_nothing() -> None:
    weights = {"matrix": torch.randn(3, 5), "gain": torch.randn(5)}
    once = half_precision(weights)
    torch.testing.assert_close(half_precision(once), once, rtol=0, atol=0)


def test_folder_is_told_by_its_weights(tmp_path: Path) -> None:
    weights = {"matrix": torch.randn(3, 5), "gain": torch.randn(5)}
    write_model(tmp_path / "whole", {}, weights)
    write_model(tmp_path / "half", {}, half_precision(weights))
    assert is_half_precision(tmp_path / "half") and not is_half_precision(tmp_path / "whole")
