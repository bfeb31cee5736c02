"""`import dvae`: a run like any other, with the released tokens, logits and pictures."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
import released_dvae
import torch
from torch import Tensor

from dalle_cli.loading import load_dvae, load_dvae_encoder


class Released(NamedTuple):
    """Both halves, as modules and as files."""

    encoder: released_dvae.Encoder
    decoder: released_dvae.Decoder
    encoder_file: Path
    decoder_file: Path


@pytest.fixture(scope="module")
def images() -> Tensor:
    """Two pictures of patches."""
    patches = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    return patches.repeat_interleave(16, 2).repeat_interleave(16, 3)


@pytest.fixture(scope="module")
def released(images: Tensor, tmp_path_factory: pytest.TempPathFactory) -> Released:
    """Narrow, with all 8,192 codes, of which none is preferred whatever is seen."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("released")
    encoder = released_dvae.Encoder(n_hid=8).requires_grad_(False)
    decoder = released_dvae.Decoder(n_hid=8, n_init=12).requires_grad_(False)
    encoder.blocks.input.w *= 8
    encoder.blocks.output.conv.b -= released_dvae.logits_of(encoder, images).mean(dim=(0, 2, 3))
    files = [
        released_dvae.pickle_module(half, folder / f"{name}.pkl")
        for name, half in (("encoder", encoder), ("decoder", decoder))
    ]
    return Released(encoder, decoder, *files)


@pytest.fixture(scope="module")
def run(released: Released, tmp_path_factory: pytest.TempPathFactory, dalle: Callable) -> Path:
    """The whole model, imported; for reading only."""
    run = tmp_path_factory.mktemp("imported") / "run"
    ended = dalle("import", "dvae", released.encoder_file, released.decoder_file, "--run", run)
    assert (ended.code, ended.out) == (0, f"{run}\n"), ended.err
    assert f"writing {run}" in ended.err and f"next: dalle reconstruct {run}" in ended.err
    return run


@pytest.fixture(scope="module")
def encoder_run(
    released: Released, tmp_path_factory: pytest.TempPathFactory, dalle: Callable
) -> Path:
    """The encoder alone, imported; for reading only."""
    run = tmp_path_factory.mktemp("imported") / "encoder"
    ended = dalle("import", "dvae", released.encoder_file, "--run", run, "--json", "--quiet")
    assert ended.code == 0 and json.loads(ended.out) == {"run": str(run), "kind": "dvae-encoder"}, (
        ended.err
    )
    return run


def test_tokens_and_logits_are_the_released_ones(
    run: Path, released: Released, images: Tensor
) -> None:
    expected, dvae = released_dvae.logits_of(released.encoder, images), load_dvae(run)
    assert expected.shape == (2, 8192, 32, 32) and expected.argmax(dim=1).unique().numel() > 50
    torch.testing.assert_close(dvae.codebook_logits(images), expected, rtol=0, atol=1e-5)
    assert torch.equal(dvae.image_tokens(images), expected.argmax(dim=1).flatten(1))


def test_pictures_of_tokens_are_the_released_ones(run: Path, released: Released) -> None:
    tokens = torch.randint(8192, (1, 32, 32), generator=torch.Generator().manual_seed(2))
    expected, found = (
        released_dvae.pictures_of(released.decoder, tokens),
        load_dvae(run).decode(tokens.flatten(1)),
    )
    assert expected.std() > 0.05
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_encoder_alone_makes_the_same_tokens(run: Path, encoder_run: Path, images: Tensor) -> None:
    expected = load_dvae(run).image_tokens(images)
    for folder in (run, encoder_run):
        assert torch.equal(load_dvae_encoder(folder).image_tokens(images), expected)


@pytest.mark.thorough
@pytest.mark.parametrize("stored", ["pytorch_model.bin", "model.safetensors"])
@pytest.mark.filterwarnings("ignore")  # of the library's own
def test_logits_of_an_imported_flava_codebook_are_those_of_transformers(
    stored: str, images: Tensor, tmp_path: Path, dalle: Callable
) -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.FlavaImageCodebookConfig(hidden_size=8, vocab_size=64)
    torch.manual_seed(0)
    codebook = transformers.FlavaImageCodebook(config).eval().requires_grad_(False)
    for parameter in codebook.parameters():
        parameter.normal_(std=0.2)
    if stored == "model.safetensors":
        codebook.save_pretrained(tmp_path)
    else:
        torch.save(codebook.state_dict(), tmp_path / stored)
    assert dalle("import", "dvae", tmp_path / stored, "--run", tmp_path / "run").code == 0
    expected = codebook.blocks(0.8 * images + 0.1)
    encoder = load_dvae_encoder(tmp_path / "run")
    torch.testing.assert_close(encoder.codebook_logits(images), expected, rtol=1e-5, atol=1e-5)


def test_run_reconstructs_is_told_of_and_exported(
    run: Path, released: Released, pairs: Path, tmp_path: Path, dalle: Callable
) -> None:
    facts = json.loads(dalle("info", run, "--json").out)
    counts = {
        part: sum(p.numel() for p in module.parameters())
        for part, module in (("encoder", released.encoder), ("decoder", released.decoder))
    }
    assert facts["kind"] == "dvae" and facts["tokens"] == "32x32 out of 8,192"
    assert facts["parameters"] == {**counts, "all": sum(counts.values())}
    picture, compare = (
        sorted(pairs.glob("*.png"))[0],
        ["--device", "cpu", "--precision", "fp32", "--json"],
    )
    rebuilt = dalle("reconstruct", run, picture, "--out", tmp_path / "pictures", *compare)
    assert rebuilt.code == 0, rebuilt.err
    assert dalle("export", run, "--out", tmp_path / "exported").code == 0
    again = dalle(
        "reconstruct", tmp_path / "exported", picture, "--out", tmp_path / "more", *compare
    )
    assert json.loads(again.out)["psnr"] == json.loads(rebuilt.out)["psnr"]


@pytest.fixture
def train(pairs: Path, tmp_path: Path, dalle: Callable, settings: Callable) -> Callable:
    """Ask whether a tiny transformer could be trained on a dVAE's tokens."""
    fit = settings(model__grid_size=32, model__image_vocab_size=8192)
    words = ["--run", tmp_path / "run", "--dry-run", *fit]
    return lambda dvae, data=pairs: dalle(
        "train-transformer", "transformer/tiny", "--dvae", dvae, "--data", data, *words
    )


@pytest.mark.thorough
def test_run_serves_a_transformer(run: Path, train: Callable) -> None:
    ended = train(run)
    assert ended.code == 0, ended.err


def test_encoder_alone_is_told_of_and_exported(
    encoder_run: Path, tmp_path: Path, dalle: Callable
) -> None:
    facts = json.loads(dalle("info", encoder_run, "--json").out)
    assert facts["kind"] == "dvae-encoder" and list(facts["parameters"]) == ["encoder", "all"]
    assert dalle("export", encoder_run, "--out", tmp_path / "exported").code == 0
    assert load_dvae_encoder(tmp_path / "exported").vocab_size == 8192


@pytest.mark.thorough
def test_tokens_of_an_encoder_alone_train_with_the_whole_model(
    encoder_run: Path, run: Path, train: Callable, pairs: Path, tmp_path: Path, dalle: Callable
) -> None:
    few = tmp_path / "few"
    few.mkdir()
    for file in sorted(pairs.iterdir())[:4]:
        (few / file.name).write_bytes(file.read_bytes())
    words = ["--copies", 1, "--device", "cpu", "--precision", "fp32", "--json"]
    ended = dalle(
        "data", "encode", few, "--dvae", encoder_run, "--out", tmp_path / "tokens", *words
    )
    assert ended.code == 0 and json.loads(ended.out)["samples"] == 2, ended.err
    ended = train(run, tmp_path / "tokens")
    assert ended.code == 0, ended.err


def test_what_needs_a_decoder_says_that_it_is_missing(
    encoder_run: Path, train: Callable, pairs: Path, tmp_path: Path, dalle: Callable
) -> None:
    for ended in (
        train(encoder_run),
        dalle("reconstruct", encoder_run, pairs, "--out", tmp_path / "pictures"),
    ):
        assert ended.code == 2 and "holds a dvae-encoder, not a dvae" in ended.err
        assert "import its decoder with it: `dalle import dvae" in ended.err


def test_folder_that_holds_something_is_left_alone(
    released: Released, run: Path, dalle: Callable, tree: Callable
) -> None:
    before = tree(run)
    ended = dalle("import", "dvae", released.encoder_file, "--run", run)
    assert ended.code == 2 and f"{run} already holds something" in ended.err and tree(run) == before


def test_refused_file_leaves_no_run(released: Released, tmp_path: Path, dalle: Callable) -> None:
    (tmp_path / "encoder.pkl").write_bytes(released.encoder_file.read_bytes()[:1000])
    ended = dalle(
        "import", "dvae", tmp_path / "encoder.pkl", released.decoder_file, "--run", tmp_path / "run"
    )
    assert ended.code == 1 and "encoder.pkl is damaged or not a checkpoint" in ended.err
    assert not (tmp_path / "run").exists()
