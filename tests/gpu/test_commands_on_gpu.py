"""Commands on the GPU: the pictures and scores that the CPU makes of the same run and seed."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.numpy import load_file

pytestmark = pytest.mark.gpu

LEVELS = 2  # of 255, which rounding may change


def pictures(folder: Path) -> np.ndarray:
    files = sorted(path for path in folder.rglob("*.png") if path.name != "grid.png")
    assert files
    return np.stack([np.asarray(Image.open(file).convert("RGB"), dtype=int) for file in files])


def other_pixels(found: Path, expected: Path) -> float:
    """Return the share of pixel values that are not the same, but for rounding."""
    differences = np.abs(pictures(found) - pictures(expected))
    return float((differences > LEVELS).mean())


@pytest.fixture
def on_both(dalle: Callable, device: torch.device, tmp_path: Path) -> Callable[..., list[Path]]:
    """Run a command that writes a folder on the device and on the CPU, in fp32."""

    def run(*words: object) -> list[Path]:
        folders = [tmp_path / "found", tmp_path / "expected"]
        for folder, place in zip(folders, (device.type, "cpu"), strict=True):
            ended = dalle(*words, "--out", folder, "--device", place, "--precision", "fp32")
            assert ended.code == 0, ended.err
        return folders

    return run


def test_transformer_generates_and_ranks_as_on_the_cpu(
    transformer_run: Path, clip_run: Path, on_both: Callable, measured: Callable
) -> None:
    words = ["a large red circle", "a blue ring", "-n", 6, "--clip", clip_run]
    found, expected = on_both("generate", transformer_run, *words)
    measured("pixels that differ", other_pixels(found, expected), most=0.05)
    scores = [sorted(scores_of(folder)) for folder in (found, expected)]
    worst = np.abs(np.subtract(*scores)).max()
    measured("scores", worst, most=0.01)


def scores_of(folder: Path) -> list[float]:
    lines = (folder / "manifest.jsonl").read_text().splitlines()
    return [record["score"] for record in map(json.loads, lines)]


@pytest.mark.parametrize("sampler", ["ancestral", "ddim"])
def test_decoder_paints_as_on_the_cpu(
    sampler: str, decoder_run: Path, prior_run: Path, on_both: Callable, measured: Callable
) -> None:
    words = ["a large red circle", "-n", 3, "--prior", prior_run, "--steps", 8]
    found, expected = on_both("generate", decoder_run, *words, "--sampler", sampler)
    measured("pixels that differ", other_pixels(found, expected), most=0.05)


def test_dvae_reconstructs_as_on_the_cpu(
    dvae_run: Path, pairs: Path, on_both: Callable, measured: Callable
) -> None:
    found, expected = on_both("reconstruct", dvae_run, pairs)
    measured("pixels that differ", other_pixels(found, expected), most=0.05)


def test_data_is_encoded_as_on_the_cpu(
    dvae_run: Path, pairs: Path, on_both: Callable, measured: Callable
) -> None:
    folders = on_both("data", "encode", pairs, "--dvae", dvae_run, "--copies", 1)
    found, expected = (
        np.concatenate([tokens_of(file) for file in sorted(folder.glob("*.safetensors"))])
        for folder in folders
    )
    measured("tokens that differ", float((found != expected).mean()), most=0.01)


def tokens_of(shard: Path) -> np.ndarray:
    return load_file(shard)["image_tokens"]


def test_doctor_measures_the_gpu(dalle: Callable, device: torch.device) -> None:
    ended = dalle("doctor", "--json")
    assert ended.code == 0, ended.err
    facts = json.loads(ended.out)
    if device.type == "cuda":
        assert torch.cuda.get_device_name(0) in facts["device"] and facts["driver"]
