"""Exports: what they hold, which weights, and that they do what their run does."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from dalle_cli.data.images import to_tensor
from dalle_cli.loading import load_clip, load_dvae, load_transformer
from dalle_cli.storage.integrity.checksums import checksummed_json
from dalle_cli.storage.model_folder import is_half_precision
from dalle_cli.storage.run_dir import RunDir

FP32 = ["--precision", "fp32"]
KINDS = ["dvae", "transformer", "clip"]


@pytest.fixture
def export(tmp_path: Path, dalle: Callable) -> Callable[..., Path]:
    def run(source: Path, *words: object, name: str = "exported") -> Path:
        ended = dalle("export", source, "--out", tmp_path / name, *words)
        assert (ended.code, ended.out) == (0, f"{tmp_path / name}\n"), ended.err
        return tmp_path / name

    return run


def held_out_lines(run: Path) -> dict[int, dict[str, float]]:
    lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return {line["step"]: line for line in lines if "valid/loss" in line}


@pytest.mark.thorough
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("choice", "step"), [("last", 11), ("6", 6), ("best", None)])
def test_export_of_a_checkpoint_holds_its_averaged_weights(
    kind: str, choice: str, step: int | None, export: Callable, request: pytest.FixtureRequest
) -> None:
    run = request.getfixturevalue(f"{kind}_run")
    out = export(run, "--checkpoint", choice)
    if step is None:
        losses = {
            int(path.name.removeprefix("step-")): loss
            for path in (run / "checkpoints").iterdir()
            if (loss := json.loads((path / "state.json").read_text()).get("valid_loss")) is not None
        }
        step = min(losses, key=losses.__getitem__)
    checkpoint = RunDir(run).checkpoint(step)
    averaged = checkpoint / "ema.safetensors"
    expected = load_file(averaged if averaged.exists() else checkpoint / "parameters.safetensors")
    torch.testing.assert_close(
        load_file(out / "model" / "model.safetensors"), expected, rtol=0, atol=0
    )
    assert json.loads((out / "export.json").read_text())["step"] == step


def test_last_checkpoint_has_the_weights_of_the_model_folder(
    transformer_run: Path, export: Callable
) -> None:
    out = export(transformer_run, "--checkpoint", "last")
    exported, own = load_transformer(out), load_transformer(transformer_run)
    torch.testing.assert_close(exported.state_dict(), own.state_dict(), rtol=0, atol=0)


@pytest.mark.thorough
@pytest.mark.parametrize("kind", KINDS)
def test_held_out_figures_are_the_last_up_to_the_exported_step(
    kind: str, export: Callable, request: pytest.FixtureRequest
) -> None:
    run = request.getfixturevalue(f"{kind}_run")
    measured = held_out_lines(run)
    for words, step in [((), 11), (("--checkpoint", "9"), 9)]:
        exported = json.loads((export(run, *words, name=f"{step}") / "export.json").read_text())
        at = max(at for at in measured if at <= step)
        assert (exported["step"], exported["measured_at"]) == (step, at)
        assert exported["held_out"]["loss"] == measured[at]["valid/loss"]


@pytest.mark.parametrize("kind", KINDS)
def test_export_has_the_recipe_and_no_path(
    kind: str, export: Callable, request: pytest.FixtureRequest, tmp_path: Path, pairs: Path
) -> None:
    run = request.getfixturevalue(f"{kind}_run")
    out = export(run)
    record, own = (json.loads((folder / "recipe.json").read_text()) for folder in (out, run))
    assert record["recipe"] == own["recipe"] and record["versions"] == own["versions"]
    assert record["data"] == own["data"] and "deepspeed" not in record["resolved"]
    for file in ("recipe.json", "export.json", "README.md", "model/config.json"):
        text = (out / file).read_text()
        assert not [path for path in (run, pairs, tmp_path) if str(path) in text], file


def test_paths_in_a_record_are_left_out(own_dvae_run: Path, export: Callable) -> None:
    path = own_dvae_run / "recipe.json"
    record = json.loads(path.read_text())
    record["data"]["sources"] = record["command"] = ["/home/me/pictures"]
    record["resolved"]["deepspeed"] = {"nvme_path": "/home/me/nvme"}
    path.write_bytes(checksummed_json(record))
    assert "/home/me" not in (export(own_dvae_run) / "recipe.json").read_text()


@pytest.mark.thorough
def test_export_of_an_export_says_the_same(
    transformer_run: Path, export: Callable, tree: Callable
) -> None:
    first = export(transformer_run, "--checkpoint", "6", name="model")
    again = export(first, name="below/model")
    assert tree(first) == tree(again)


def test_run_without_a_record_is_exported_without_one(own_dvae_run: Path, export: Callable) -> None:
    """As one that `import dvae` wrote."""
    (own_dvae_run / "recipe.json").unlink()
    (own_dvae_run / "metrics.jsonl").unlink()
    out = export(own_dvae_run)
    assert not (out / "recipe.json").exists() and "not recorded" in (out / "README.md").read_text()


@pytest.mark.parametrize("content", ["{", "[]", '{"schema": 1, "recipe": 3}'])
def test_damaged_record_is_warned_of(content: str, own_dvae_run: Path, dalle: Callable) -> None:
    (own_dvae_run / "recipe.json").write_text(content)
    ended = dalle("export", own_dvae_run, "--out", own_dvae_run / "exported")
    assert ended.code == 0 and "the export has no recipe" in ended.err


def test_export_is_no_run_to_train_in(
    transformer_run: Path, dvae_run: Path, pairs: Path, export: Callable, dalle: Callable,
    tree: Callable,
) -> None:  # fmt: skip
    out = export(transformer_run)
    before = tree(out)
    words = ["--data", pairs, "--dvae", dvae_run, "--run", out]
    ended = dalle("train-transformer", "transformer/tiny", *words)
    assert ended.code == 2 and "holds files but no run" in ended.err
    assert tree(out) == before


@pytest.mark.thorough
def test_export_warns_of_guidance_without_empty_captions_as_its_run_does(
    own_transformer_run: Path, export: Callable, dalle: Callable
) -> None:
    path = own_transformer_run / "recipe.json"
    record = json.loads(path.read_text())
    for dropout in (0.0, 0.1):
        record["recipe"]["loss"]["caption_dropout"] = dropout
        path.write_bytes(checksummed_json(record))
        out = export(own_transformer_run, name=f"{dropout}")
        ended = dalle("generate", out, "a ring", "-n", 1, "--guidance", 3, "--quiet", *FP32)
        assert ended.code == 0
        assert ("never saw in training" in ended.err) == (dropout == 0)


def test_export_has_no_checkpoints_to_choose_from(
    transformer_run: Path, export: Callable, dalle: Callable
) -> None:
    out = export(transformer_run)
    ended = dalle("generate", out, "a ring", "-n", 1, "--checkpoint", "best")
    assert ended.code == 2 and "has no checkpoints" in ended.err


def images_of(pairs: Path) -> torch.Tensor:
    """Read the pictures of a folder: fp32 [B, 3, H, W]."""
    pictures = [Image.open(path).convert("RGB") for path in sorted(pairs.glob("*.png"))]
    return torch.stack([to_tensor(picture).float() / 255 for picture in pictures])


def compared(load: Callable, run: Path, export: Callable) -> tuple:
    """Load a model as it was trained, and as it was stored in half precision."""
    return load(run), load(export(run, "--half"))


@pytest.mark.thorough
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("words", [(), ("--checkpoint", "6")], ids=str)
def test_half_precision_rounds_matrices_and_keeps_vectors(
    kind: str, words: tuple[str, ...], export: Callable, request: pytest.FixtureRequest
) -> None:
    run = request.getfixturevalue(f"{kind}_run")
    whole = load_file(export(run, *words, name="whole") / "model" / "model.safetensors")
    half = load_file(export(run, "--half", *words) / "model" / "model.safetensors")
    assert half.keys() == whole.keys() and any(tensor.dim() < 2 for tensor in whole.values())
    for name, tensor in whole.items():
        expected = tensor.half() if tensor.dim() > 1 else tensor
        torch.testing.assert_close(half[name], expected, rtol=0, atol=0, msg=name)


@pytest.mark.thorough
@pytest.mark.parametrize("kind", KINDS)
def test_half_precision_takes_half_the_room(
    kind: str, export: Callable, request: pytest.FixtureRequest
) -> None:
    """Of matrices: a tiny model has many vectors, whose bytes are left out, and a header."""
    run = request.getfixturevalue(f"{kind}_run")
    matrices = []
    for out in (export(run, name="whole"), export(run, "--half")):
        file = out / "model" / "model.safetensors"
        vectors = sum(tensor.nbytes for tensor in load_file(file).values() if tensor.dim() < 2)
        header = 8 + int.from_bytes(file.read_bytes()[:8], "little")
        matrices.append(file.stat().st_size - vectors - header)
    assert matrices[0] == 2 * matrices[1] > 0


def test_logits_of_a_transformer_in_half_precision_stay_close(
    transformer_run: Path, pairs: Path, export: Callable
) -> None:
    whole, half = compared(load_transformer, transformer_run, export)
    image_tokens = load_dvae(transformer_run).image_tokens(images_of(pairs))
    text_tokens = torch.arange(whole.text_len).expand(len(image_tokens), -1)
    for ours, theirs in zip(
        half(text_tokens, image_tokens), whole(text_tokens, image_tokens), strict=True
    ):
        assert ours.dtype == torch.float32
        torch.testing.assert_close(ours, theirs, rtol=0, atol=2e-3)


def test_dvae_in_half_precision_makes_nearly_the_same_tokens_and_pictures(
    dvae_run: Path, pairs: Path, export: Callable
) -> None:
    whole, half = compared(load_dvae, dvae_run, export)
    tokens = whole.image_tokens(images_of(pairs))
    assert (half.image_tokens(images_of(pairs)) == tokens).float().mean() >= 0.98
    torch.testing.assert_close(half.decode(tokens), whole.decode(tokens), rtol=0, atol=2e-3)


def test_clip_in_half_precision_embeds_nearly_the_same(
    clip_run: Path, pairs: Path, export: Callable
) -> None:
    whole, half = compared(load_clip, clip_run, export)
    pixels = whole.normalise(images_of(pairs))
    similar = torch.cosine_similarity(half.encode_image(pixels), whole.encode_image(pixels))
    assert similar.min() > 1 - 1e-4
    assert torch.equal(half.logit_scale, whole.logit_scale)


def test_export_brings_its_dvae_and_the_clip_that_is_named(
    transformer_run: Path, clip_run: Path, export: Callable, tree: Callable
) -> None:
    out = export(transformer_run, "--clip", clip_run)
    alone = export(clip_run, name="clip")
    inside, expected = tree(out / "clip"), tree(alone)
    assert inside.keys() == expected.keys()
    assert {name for name in inside if inside[name] != expected[name]} == {"README.md"}
    assert "--clip exported/clip" in (out / "clip" / "README.md").read_text()
    assert "| CLIP | " in (out / "README.md").read_text()


@pytest.mark.thorough
def test_everything_inside_an_export_has_its_precision(
    transformer_run: Path, clip_run: Path, export: Callable
) -> None:
    for words, is_half in (([], False), (["--half"], True)):
        out = RunDir(export(transformer_run, "--clip", clip_run, *words, name=f"half-{is_half}"))
        folders = (out.model, out.dvae, RunDir(out.clip).model)
        assert [is_half_precision(folder) for folder in folders] == [is_half] * 3


@pytest.mark.thorough
def test_export_of_an_export_keeps_clip_precision_and_about(
    toy: Path, export: Callable, tree: Callable
) -> None:
    assert tree(export(toy, name="toy")) == tree(toy)
    assert tree(export(toy, "--half", name="again/toy")) == tree(toy)


def test_clip_of_another_kind_is_refused_before_anything_is_written(
    transformer_run: Path, dvae_run: Path, dalle: Callable, tmp_path: Path
) -> None:
    ended = dalle("export", transformer_run, "--clip", dvae_run, "--out", tmp_path / "out")
    assert ended.code == 2 and "holds a dvae, not a clip" in ended.err
    assert not (tmp_path / "out").exists()


def test_damaged_about_is_refused_before_anything_is_written(
    own_transformer_run: Path, dalle: Callable
) -> None:
    (own_transformer_run / "about.toml").write_text('title = ""')
    ended = dalle("export", own_transformer_run, "--out", own_transformer_run / "out")
    assert ended.code == 1 and "about.toml is damaged" in ended.err
    assert not (own_transformer_run / "out").exists()


@pytest.mark.thorough
@pytest.mark.filterwarnings("ignore")  # of the exporter
@pytest.mark.parametrize("kind", ["dvae", "transformer"])
def test_dvae_is_exported_as_onnx_as_well(
    kind: str, export: Callable, request: pytest.FixtureRequest
) -> None:
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package, reason="its packages are an extra")
    import onnxruntime

    out = export(request.getfixturevalue(f"{kind}_run"), "--onnx")
    dvae = load_dvae(out)
    tokens = torch.arange(dvae.grid_size**2)[None] % dvae.vocab_size
    session = onnxruntime.InferenceSession(out / "onnx" / "decoder.onnx")
    (images,) = session.run(["images"], {"image_tokens": tokens.numpy()})
    torch.testing.assert_close(torch.from_numpy(images), dvae.decode(tokens), rtol=0, atol=1e-5)
    assert (out / "onnx" / "encoder.onnx").is_file()


def test_clip_has_no_dvae_to_export_as_onnx(
    clip_run: Path, tmp_path: Path, dalle: Callable
) -> None:
    ended = dalle("export", clip_run, "--onnx", "--out", tmp_path / "exported")
    assert ended.code == 2 and "`--onnx` is for discrete VAEs" in ended.err
    assert not (tmp_path / "exported").exists()


def test_onnx_without_its_packages_is_told_before_anything_is_written(
    dvae_run: Path, tmp_path: Path, dalle: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dalle_cli.interop.graphs.dvae_graphs.is_installed", lambda name: False)
    ended = dalle("export", dvae_run, "--onnx", "--out", tmp_path / "exported")
    assert ended.code == 1 and "`pip install onnx onnxscript`" in ended.err
    assert not (tmp_path / "exported").exists()
