"""Loading: runs and exported folders give the same module; what is damaged, foreign or hostile gives an error."""

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from dalle_cli.errors import DalleError
from dalle_cli.loading import load_dvae, load_tokenizer, load_transformer
from dalle_cli.run_dir import RunDir

LOADERS = {"dvae": load_dvae, "transformer": load_transformer}


@pytest.fixture
def exported(own_transformer_run: Path, tmp_path: Path, dalle: Callable) -> Path:
    assert dalle("export", own_transformer_run, "--out", tmp_path / "exported").code == 0
    return tmp_path / "exported"


def test_module_holds_what_the_run_saved_and_is_ready_for_inference(dvae_run: Path, transformer_run: Path) -> None:
    for module, run in ((load_dvae(dvae_run), dvae_run), (load_transformer(str(transformer_run)), transformer_run)):
        torch.testing.assert_close(
            dict(module.state_dict()), load_file(run / "model" / "model.safetensors"), rtol=0, atol=0
        )
        assert not module.training and not any(p.requires_grad for p in module.parameters())


def test_transformer_run_carries_its_dvae(dvae_run: Path, transformer_run: Path) -> None:
    own, given = load_dvae(transformer_run), load_dvae(dvae_run)
    torch.testing.assert_close(own.state_dict(), given.state_dict(), rtol=0, atol=0)


def test_exported_folder_loads_as_the_run_does(exported: Path, transformer_run: Path) -> None:
    for load in LOADERS.values():
        torch.testing.assert_close(load(exported).state_dict(), load(transformer_run).state_dict(), rtol=0, atol=0)
    assert load_tokenizer(RunDir(exported)).merges == load_tokenizer(RunDir(transformer_run)).merges


def test_wrong_kind_is_told(dvae_run: Path, transformer_run: Path) -> None:
    with pytest.raises(DalleError, match="holds a dvae, not a transformer"):
        load_transformer(dvae_run)
    with pytest.raises(DalleError, match="holds a transformer, not a dvae"):
        load_dvae(transformer_run / "model")


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", '{"kind": "dvae"}', '{"kind": "dvae", "model": 3}', '{"model": {}}', "\udcff"]
)
def test_damaged_config_is_told(text: str, own_dvae_run: Path) -> None:
    config = own_dvae_run / "model" / "config.json"
    config.write_text(text, encoding="utf-8", errors="surrogateescape")
    with pytest.raises(DalleError, match=r"config\.json"):
        load_dvae(own_dvae_run)


def change_config(run: Path, **changes: Any) -> None:
    path = run / "model" / "config.json"
    config = json.loads(path.read_text())
    config["model"] |= changes
    path.write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("dvae", {"vocab_size": "64"}),
        ("dvae", {"vocab_size": 65}),
        ("dvae", {"image_size": 33}),
        ("dvae", {"vocab_size": 10**15}),
        ("dvae", {"surprise": 1}),
        ("transformer", {"n_heads": 5}),
        ("transformer", {"text_vocab_size": 7}),
        ("transformer", {"text_vocab_size": -1}),
        ("transformer", {"text_vocab_size": 10**15}),
        ("transformer", {"grid_size": 10**7}),
    ],
    ids=str,
)
def test_config_that_does_not_describe_the_weights_is_told(
    kind: str, changes: dict[str, Any], request: pytest.FixtureRequest
) -> None:
    """Also sizes that no memory holds: a stranger's few bytes must not bring a program down."""
    run = request.getfixturevalue(f"own_{kind}_run")
    change_config(run, **changes)
    with pytest.raises(DalleError):
        LOADERS[kind](run)


class Payload:
    """Writes a file when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Callable, tuple]:
        return Path.touch, (self.marker,)


@pytest.mark.parametrize("write", [lambda p, f: pickle.dump(p, f), lambda p, f: torch.save({"weight": p}, f)])
def test_pickle_in_place_of_weights_is_refused_and_never_run(
    write: Callable, own_dvae_run: Path, tmp_path: Path, dalle: Callable
) -> None:
    marker = tmp_path / "marker"
    with (own_dvae_run / "model" / "model.safetensors").open("wb") as file:
        write(Payload(marker), file)
    with pytest.raises(DalleError, match="does not hold this model's weights"):
        load_dvae(own_dvae_run)
    assert not marker.exists()
    pickle.loads(pickle.dumps(Payload(marker)))
    assert marker.exists()  # the payload works


@pytest.mark.parametrize("kind", LOADERS)
@pytest.mark.parametrize("damage", ["missing", "extra", "misshapen", "truncated", "empty"])
def test_weights_that_do_not_fit_are_told(kind: str, damage: str, request: pytest.FixtureRequest) -> None:
    run = request.getfixturevalue(f"own_{kind}_run")
    path = run / "model" / "model.safetensors"
    weights = load_file(path)
    name = sorted(weights)[0]
    if damage == "missing":
        del weights[name]
    elif damage == "extra":
        weights["extra"] = torch.zeros(1)
    elif damage == "misshapen":
        weights[name] = torch.zeros(*weights[name].shape, 2)
    save_file(weights, path)
    if damage in ("truncated", "empty"):
        path.write_bytes(path.read_bytes()[: -1 if damage == "truncated" else 0])
    with pytest.raises(DalleError, match="does not hold this model's weights"):
        LOADERS[kind](run)


def test_folder_without_weights_is_no_run(exported: Path) -> None:
    (exported / "model" / "model.safetensors").unlink()
    with pytest.raises(DalleError, match="is not a run"):
        load_transformer(exported)


@pytest.mark.parametrize("part", ["tokenizer", "dvae"])
def test_run_that_lost_a_part_is_told_by_generate(part: str, exported: Path, dalle: Callable) -> None:
    shutil.rmtree(exported / part)
    ended = dalle("generate", exported, "a red circle", "-n", 1)
    assert ended.code == 1 and ended.err.startswith("error: ")


def test_tokenizer_of_another_model_is_told_by_generate(exported: Path, dalle: Callable) -> None:
    """One that makes tokens which the transformer has no vector for."""
    change_config(exported, text_vocab_size=258)
    path = exported / "model" / "model.safetensors"
    weights = load_file(path)
    for name in ("text_embedding.weight", "text_head.weight", "text_head.bias"):
        weights[name] = weights[name][:258].clone()
    save_file(weights, path)
    ended = dalle("generate", exported, "a red circle", "-n", 1)
    assert ended.code == 1 and ended.err.startswith("error: ") and "tokenizer" in ended.err


def test_dvae_of_another_model_is_told_by_generate(
    exported: Path, tmp_path: Path, pairs: Path, dalle: Callable
) -> None:
    """One whose codebook is smaller than the transformer's."""
    words = ["--data", pairs, "--run", tmp_path / "small", "--set", "model.vocab_size=32", "--set", "training.steps=1"]
    assert dalle("train-dvae", "dvae/tiny", *words).code == 0
    shutil.rmtree(exported / "dvae")
    shutil.copytree(tmp_path / "small" / "model", exported / "dvae")
    ended = dalle("generate", exported, "a red circle", "-n", 4)
    assert ended.code == 1 and ended.err.startswith("error: ")
