"""Generating on a GPU, traced: no tensor on a wrong device, and no wait for each position."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fake_cuda import CUDA, FakeCuda, fake_cuda
from PIL import Image
from torch import Tensor, nn

from dalle_cli.data.clip_tokenizer import own_clip_tokenizer
from dalle_cli.data.tokenizer import Tokenizer
from dalle_cli.generation.image_prompt import ImagePrompt, keep_tokens
from dalle_cli.generation.sampling import Sampler, SamplingSettings
from dalle_cli.loading import build_clip, build_dvae, trained_clip_table
from dalle_cli.models.dvae import DiscreteVAE
from dalle_cli.models.transformer import Transformer
from dalle_cli.recipe import load_recipe
from dalle_cli.runtime.devices import open_device
from dalle_cli.runtime.precision import DTYPES, Precision, apply_precision
from dalle_cli.scoring.clip_scorer import ClipScorer

PRECISIONS: list[Precision] = ["fp32", "bf16", "fp16"]


@pytest.fixture
def gpu() -> Iterator[FakeCuda]:
    with fake_cuda() as gpu:
        yield gpu


def on_gpu(gpu: FakeCuda, build: Any, *arguments: Any) -> Any:
    with gpu.building():
        model: nn.Module = build(*arguments)
    return model.eval().requires_grad_(False).to(CUDA)


def transformer(gpu: FakeCuda, grid_size: int = 3) -> Transformer:
    def build() -> Transformer:
        sizes = {"n_layers": 3, "d_model": 32, "n_heads": 2, "kernel_size": 3}
        return Transformer(300, 64, text_len=5, grid_size=grid_size, **sizes)

    return on_gpu(gpu, build)


def dvae(gpu: FakeCuda, precision: Precision = "fp32") -> DiscreteVAE:
    model = on_gpu(gpu, build_dvae, load_recipe("dvae/tiny", []).model)
    apply_precision(model, precision, CUDA)
    return model


def sample(gpu: FakeCuda, sampler: Sampler, n_tokens: int, kept: Tensor | None = None) -> Tensor:
    text_tokens = torch.zeros(4, 5, dtype=torch.int64, device=CUDA)
    uniforms = torch.zeros(4, n_tokens, dtype=torch.float64)
    gpu.waits.clear()
    return sampler.sample(text_tokens, uniforms, kept)


@pytest.mark.thorough
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize(
    "settings",
    [
        SamplingSettings(),
        SamplingSettings(temperature=0),
        SamplingSettings(top_k=5, top_p=0.9, guidance=3.0),
    ],
    ids=["plain", "likeliest", "guided and cut off"],
)
def test_tokens_are_sampled_on_the_gpu(
    settings: SamplingSettings, precision: Precision, gpu: FakeCuda
) -> None:
    dtype = DTYPES.get(precision, torch.float32)
    sampler = Sampler(transformer(gpu), settings, dtype=dtype)
    tokens = sample(gpu, sampler, 9)
    assert (tokens.device, tuple(tokens.shape)) == (CUDA, (4, 9))


def test_host_waits_as_often_for_many_positions_as_for_few(gpu: FakeCuda) -> None:
    waits = []
    for grid_size in (2, 4):
        sampler = Sampler(transformer(gpu, grid_size), SamplingSettings(), compiled_batch_size=4)
        sample(gpu, sampler, grid_size**2)
        waits.append(list(gpu.waits))
    assert waits[0] == waits[1]


@pytest.mark.parametrize("precision", PRECISIONS)
def test_pictures_are_encoded_and_decoded_on_the_gpu(precision: Precision, gpu: FakeCuda) -> None:
    model = dvae(gpu, precision)
    gpu.waits.clear()
    tokens = model.image_tokens(torch.zeros(2, 3, 32, 32, device=CUDA))
    pictures = model.decode(tokens)
    assert tokens.device == pictures.device == CUDA
    assert pictures.dtype == torch.float32 and gpu.waits == []


def test_tokens_of_a_picture_are_kept_on_the_gpu(gpu: FakeCuda, tmp_path: Path) -> None:
    model, file = dvae(gpu), tmp_path / "picture.png"
    Image.new("RGB", (32, 32)).save(file)
    assert keep_tokens(ImagePrompt(file, keep_rows=1), model).tokens.device == CUDA

    kept = torch.full([model.grid_size**2], -1)
    kept[: model.grid_size] = 3
    sampler = Sampler(transformer(gpu, model.grid_size), SamplingSettings())
    assert sample(gpu, sampler, model.grid_size**2, kept).device == CUDA


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_clip_scores_on_the_gpu(precision: Precision, gpu: FakeCuda) -> None:
    scorer = clip_scorer(gpu, precision)
    squares = [np.zeros((32, 32, 3), dtype=np.uint8)] * 2
    pictures, captions = scorer.embed_pictures(squares), scorer.embed_captions(["a ring", "rings"])
    assert pictures.shape == captions.shape == (2, scorer.width)
    assert (pictures @ captions.T).device.type == "cpu"


def clip_scorer(gpu: FakeCuda, precision: Precision = "fp32") -> ClipScorer:
    tokenizer = own_clip_tokenizer(Tokenizer([("r", "i"), ("ri", "n")], "tokenizers"))
    table = trained_clip_table(load_recipe("clip/tiny", []).model, tokenizer.vocab_size - 2)
    clip = on_gpu(gpu, build_clip, table)
    apply_precision(clip, precision, CUDA)
    return ClipScorer(clip, tokenizer, CUDA, precision)


def test_gpu_is_opened_for_plain_fp32_and_computes_in_bf16(
    gpu: FakeCuda, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PYTORCH_ALLOC_CONF", raising=False)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    assert open_device("auto", "auto") == (torch.device("cuda"), "bf16")
    assert not torch.backends.cudnn.allow_tf32
    assert not torch.backends.cuda.matmul.allow_tf32
