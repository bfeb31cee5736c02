"""Which attention a transformer trains with, and that it is the same transformer."""

import shutil
import sysconfig
from pathlib import Path

import pytest
import torch
import torch.utils._triton

from dalle_cli.errors import UsageError
from dalle_cli.models.transformer import Transformer
from dalle_cli.training.activation_checkpointing import checkpoint_activations
from dalle_cli.training.attention_backend import (
    choose_attention_backend,
    set_attention_backend,
    warn_of_missing_compiler,
)

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


def transformer(grid_size: int, kernel_size: int = 3) -> Transformer:
    torch.manual_seed(0)
    sizes = {"n_layers": 4, "d_model": 16, "n_heads": 2, "kernel_size": kernel_size}
    model = Transformer(11, 13, text_len=5, grid_size=grid_size, **sizes)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return model


@pytest.fixture(params=[True, False], ids=["compiler", "no compiler"])
def can_compile(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> bool:
    """A machine with or without what Triton's kernels need."""
    (tmp_path / "Python.h").touch()
    monkeypatch.setattr(sysconfig, "get_path", lambda _: str(tmp_path))
    monkeypatch.setattr(torch.utils._triton, "has_triton", lambda: True)
    monkeypatch.setattr(shutil, "which", lambda name: name if request.param else None)
    return request.param


@pytest.mark.parametrize(
    ("choice", "grid_size", "device", "name"),
    [
        ("auto", 16, CPU, "sparse"),
        ("auto", 15, CPU, "dense"),
        ("auto", 16, CUDA, "flex"),
        ("auto", 4, CUDA, "dense"),
        ("dense", 16, CUDA, "dense"),
        ("sparse", 4, CPU, "sparse"),
        ("flex", 4, CUDA, "flex"),
    ],
)
def test_choice_goes_by_device_and_length(
    choice: str, grid_size: int, device: torch.device, name: str, can_compile: bool
) -> None:
    with torch.device("meta"):
        model = transformer(grid_size)
    is_short_of = (choice, name) == ("auto", "flex") and not can_compile
    assert choose_attention_backend(choice, model, device) == ("dense" if is_short_of else name)

    warned: list[str] = []
    warn_of_missing_compiler(choice, model, device=device, warn=warned.append)
    assert len(warned) == is_short_of and all("needs Triton" in text for text in warned)


@pytest.mark.parametrize(("choice", "device"), [("sparse", CUDA), ("flex", CPU)])
def test_attention_for_another_device_is_refused(choice: str, device: torch.device) -> None:
    with pytest.raises(UsageError, match=f"`runtime.attention` {choice} is for"):
        choose_attention_backend(choice, transformer(4), device)


@pytest.mark.parametrize(("is_recomputed", "kernel_size"), [(False, 3), (True, 3), (False, 5)])
def test_sparse_transformer_computes_what_the_dense_one_does(
    is_recomputed: bool, kernel_size: int
) -> None:
    text, image = torch.tensor([[1, 2, -1, -1, -1]]), torch.arange(36)[None] % 13
    found = []
    for name in ("dense", "sparse"):
        model = transformer(6, kernel_size)
        set_attention_backend(name, model, device=CPU)
        if is_recomputed:
            checkpoint_activations(model.half_precision_modules())
        assert set(model.attend) == (
            set() if name == "dense" else {"row", "column", "convolutional"}
        )
        logits = model(text, image)
        sum(part.square().sum() for part in logits).backward()
        found.append([*logits, *(parameter.grad for parameter in model.parameters())])
    torch.testing.assert_close(found[1], found[0], rtol=1e-4, atol=1e-5)
