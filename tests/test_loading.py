"""Loading: runs and exports give the same module; damaged, foreign and hostile ones an error."""

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from dalle_cli.data.clip_tokenizer import BYTE_SYMBOLS
from dalle_cli.data.tokenizer import Tokenizer
from dalle_cli.errors import DalleError
from dalle_cli.loading import (
    load_clip,
    load_clip_tokenizer,
    load_dalle,
    load_dvae,
    load_tokenizer,
    load_transformer,
)
from dalle_cli.models.clip import Clip, Tower
from dalle_cli.storage.integrity.checksums import checksummed_json
from dalle_cli.storage.integrity.tensor_files import write_checksummed_tensors
from dalle_cli.storage.run_dir import RunDir

LOADERS = {"dvae": load_dvae, "transformer": load_transformer, "clip": load_clip}


@pytest.fixture
def exported(own_transformer_run: Path, tmp_path: Path, dalle: Callable) -> Path:
    assert dalle("export", own_transformer_run, "--out", tmp_path / "exported").code == 0
    return tmp_path / "exported"


@pytest.mark.parametrize("kind", LOADERS)
def test_module_holds_what_the_run_saved_and_is_ready_for_inference(
    kind: str, request: pytest.FixtureRequest
) -> None:
    run = request.getfixturevalue(f"{kind}_run")
    saved = load_file(run / "model" / "model.safetensors")
    for path in (run, str(run), run / "model"):
        module = LOADERS[kind](path)
        torch.testing.assert_close(dict(module.state_dict()), saved, rtol=0, atol=0)
        assert not module.training and not any(p.requires_grad for p in module.parameters())


def test_transformer_run_carries_its_dvae(dvae_run: Path, transformer_run: Path) -> None:
    own, given = load_dvae(transformer_run), load_dvae(dvae_run)
    torch.testing.assert_close(own.state_dict(), given.state_dict(), rtol=0, atol=0)


def test_exported_folder_loads_as_the_run_does(exported: Path, transformer_run: Path) -> None:
    for load in (load_dvae, load_transformer):
        torch.testing.assert_close(
            load(exported).state_dict(), load(transformer_run).state_dict(), rtol=0, atol=0
        )
    assert load_tokenizer(RunDir(exported)).merges == load_tokenizer(RunDir(transformer_run)).merges


@pytest.mark.parametrize(
    "file", ["model/model.safetensors", "dvae/model.safetensors", "tokenizer/merges.json"]
)
def test_checksum_tells_every_part_that_pictures_depend_on(
    file: str, own_transformer_run: Path
) -> None:
    """A job begun with one dVAE is not filled up with the pictures of another."""
    before = load_dalle(own_transformer_run).checksum
    path = own_transformer_run / file
    if path.suffix == ".json":
        path.write_bytes(checksummed_json(json.loads(path.read_text()), indent=3))
    else:
        weights = load_file(path)
        name = next(iter(weights))
        write_checksummed_tensors(path, {**weights, name: weights[name] + 1})
    assert load_dalle(own_transformer_run).checksum != before


def test_wrong_kind_is_told(dvae_run: Path, transformer_run: Path, clip_run: Path) -> None:
    with pytest.raises(DalleError, match="holds a dvae, not a transformer"):
        load_transformer(dvae_run)
    with pytest.raises(DalleError, match="holds a transformer, not a dvae"):
        load_dvae(transformer_run / "model")
    with pytest.raises(DalleError, match="holds a dvae, not a clip"):
        load_clip(dvae_run)
    with pytest.raises(DalleError, match="holds a transformer, not a clip"):
        load_clip(transformer_run / "model")
    with pytest.raises(DalleError, match="holds a clip, not a transformer"):
        load_transformer(clip_run)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        '{"kind": "dvae"}',
        '{"kind": "dvae", "model": 3}',
        '{"model": {}}',
        "\udcff",
    ],
)
@pytest.mark.parametrize("kind", ["dvae", "clip"])
def test_damaged_config_is_told(text: str, kind: str, request: pytest.FixtureRequest) -> None:
    run = request.getfixturevalue(f"own_{kind}_run")
    config = run / "model" / "config.json"
    config.write_text(text, encoding="utf-8", errors="surrogateescape")
    with pytest.raises(DalleError, match=r"config\.json"):
        LOADERS[kind](run)


def change_config(run: Path, **changes: Any) -> None:
    path = run / "model" / "config.json"
    config = json.loads(path.read_text())
    config["model"] |= changes
    path.write_bytes(checksummed_json(config))


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
        ("clip", {"text_len": "16"}),
        ("clip", {"text_len": 17}),
        ("clip", {"patch_size": 5}),
        ("clip", {"activation": "relu"}),
        ("clip", {"vision": {"n_layers": 2, "d_model": 32, "n_heads": 5, "d_mlp": 128}}),
        ("clip", {"vision": {"n_layers": 10**12, "d_model": 32, "n_heads": 2, "d_mlp": 128}}),
        ("clip", {"text_vocab_size": 7}),
        ("clip", {"d_embed": 10**15}),
        ("clip", {"image_size": 8 * 10**15}),
        ("clip", {"end_of_text": -1}),
        ("clip", {"pixel_std": [1.0, 1.0, 0.0]}),
        ("clip", {"surprise": 1}),
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


@pytest.mark.parametrize("kind", ["dvae", "clip"])
@pytest.mark.parametrize(
    "write", [lambda p, f: pickle.dump(p, f), lambda p, f: torch.save({"weight": p}, f)]
)
def test_pickle_in_place_of_weights_is_refused_and_never_run(
    write: Callable, kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    run, marker = request.getfixturevalue(f"own_{kind}_run"), tmp_path / "marker"
    with (run / "model" / "model.safetensors").open("wb") as file:
        write(Payload(marker), file)
    with pytest.raises(DalleError, match=r"model\.safetensors (does not hold|is damaged)"):
        LOADERS[kind](run)
    assert not marker.exists()
    pickle.loads(pickle.dumps(Payload(marker)))
    assert marker.exists()  # the payload works


@pytest.mark.parametrize("kind", LOADERS)
@pytest.mark.parametrize("damage", ["missing", "extra", "misshapen", "truncated", "empty"])
def test_weights_that_do_not_fit_are_told(
    kind: str, damage: str, request: pytest.FixtureRequest
) -> None:
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
    write_checksummed_tensors(path, weights)
    if damage in ("truncated", "empty"):
        path.write_bytes(path.read_bytes()[: -1 if damage == "truncated" else 0])
    with pytest.raises(DalleError, match=r"model\.safetensors (does not hold|is damaged)"):
        LOADERS[kind](run)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_clip_of_other_floats_is_converted(dtype: torch.dtype, own_clip_run: Path) -> None:
    path = own_clip_run / "model" / "model.safetensors"
    weights = {name: tensor.to(dtype) for name, tensor in load_file(path).items()}
    write_checksummed_tensors(path, weights)
    expected = {name: tensor.float() for name, tensor in weights.items()}
    torch.testing.assert_close(dict(load_clip(own_clip_run).state_dict()), expected, rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [torch.int32, torch.bool, torch.complex64])
@pytest.mark.parametrize("kind", ["run", "public"])
def test_clip_of_other_numbers_is_refused_by_name(
    kind: str, dtype: torch.dtype, own_clip_run: Path
) -> None:
    path = own_clip_run / "model" / "model.safetensors"
    weights = load_file(path)
    write_checksummed_tensors(path, weights | {"visual.proj": weights["visual.proj"].to(dtype)})
    with pytest.raises(DalleError, match=rf"visual\.proj is of type {str(dtype)[6:]}"):
        load_clip(own_clip_run if kind == "run" else path)


@pytest.mark.parametrize("kind", ["dvae", "transformer"])
def test_model_of_other_numbers_is_refused_by_name(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """Copied into fp32, they would be a model that generates nonsense."""
    run = shutil.copytree(request.getfixturevalue(f"{kind}_run"), tmp_path / "run")
    path = run / "model" / "model.safetensors"
    weights = load_file(path)
    name = min(weights)
    write_checksummed_tensors(path, weights | {name: weights[name].int()})
    with pytest.raises(DalleError, match=rf"{name} is of type int32, not of a floating-point"):
        LOADERS[kind](run)


def test_clip_that_does_not_fit_is_refused_before_anything_is_converted(own_clip_run: Path) -> None:
    path = own_clip_run / "model" / "model.safetensors"
    weights = {name: tensor.int() for name, tensor in load_file(path).items()}
    write_checksummed_tensors(path, weights | {"surprise": torch.zeros(1)})
    with pytest.raises(DalleError, match="1 tensors are not as expected, first surprise"):
        load_clip(own_clip_run)


def test_folder_without_weights_is_no_run(exported: Path) -> None:
    (exported / "model" / "model.safetensors").unlink()
    with pytest.raises(DalleError, match="is not a run"):
        load_transformer(exported)


@pytest.mark.parametrize("part", ["tokenizer", "dvae"])
def test_run_that_lost_a_part_is_told_by_generate(
    part: str, exported: Path, dalle: Callable
) -> None:
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
    write_checksummed_tensors(path, weights)
    ended = dalle("generate", exported, "a red circle", "-n", 1)
    assert ended.code == 1 and ended.err.startswith("error: ") and "tokenizer" in ended.err


def test_dvae_of_another_model_is_told_by_generate(
    exported: Path, tmp_path: Path, pairs: Path, dalle: Callable
) -> None:
    """One whose codebook is smaller than the transformer's."""
    words = [
        "--data",
        pairs,
        "--run",
        tmp_path / "small",
        "--set",
        "model.vocab_size=32",
        "--set",
        "training.steps=1",
    ]
    assert dalle("train-dvae", "dvae/tiny", *words).code == 0
    shutil.rmtree(exported / "dvae")
    shutil.copytree(tmp_path / "small" / "model", exported / "dvae")
    ended = dalle("generate", exported, "a red circle", "-n", 4)
    assert ended.code == 1 and ended.err.startswith("error: ")


def test_clip_run_that_has_not_saved_yet_is_told(own_clip_run: Path) -> None:
    shutil.rmtree(own_clip_run / "model")
    with pytest.raises(DalleError, match="has no model yet"):
        load_clip(own_clip_run)


def test_clip_run_reads_captions_with_the_tokenizer_it_learnt(clip_run: Path) -> None:
    clip, learnt = load_clip(clip_run), load_tokenizer(RunDir(clip_run))
    tokenizer = load_clip_tokenizer(clip_run, clip)
    assert tokenizer.vocab_size == clip.text_vocab_size == learnt.vocab_size + 2
    start, *ids, end = (
        token for token in tokenizer(["a red circle"], clip.text_len)[0].tolist() if token
    )
    assert (start, ids, end) == (
        learnt.vocab_size,
        learnt.encode("a red circle"),
        learnt.vocab_size + 1,
    )


LIST = "bpe_simple_vocab_16e6.txt"
MERGES = ["c a", "ca t</w>", "d o"]
END = 512 + len(MERGES) + 1  # after two kinds of bytes, the merges and start of text


def public_clip(text_vocab_size: int = END + 1, end_of_text: int | None = None) -> Clip:
    torch.manual_seed(0)
    tower = Tower(1, 64, 1, 70)
    return Clip(
        12,
        4,
        6,
        text_vocab_size,
        9,
        "quick_gelu",
        vision=tower,
        text=tower,
        end_of_text=end_of_text,
    )


def write_list(path: Path, merges: list[str]) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text("\n".join(["a header", *merges, ""]))
    return path


@pytest.fixture
def public_file(tmp_path: Path) -> Path:
    """A checkpoint in OpenAI's layout, alone in its folder."""
    (tmp_path / "public").mkdir()
    torch.save(public_clip().state_dict(), tmp_path / "public" / "clip.pt")
    return tmp_path / "public" / "clip.pt"


@pytest.mark.parametrize("place", ["file", "folder"])
def test_vocabulary_beside_a_public_checkpoint_is_found(place: str, public_file: Path) -> None:
    write_list(public_file.with_name(LIST), MERGES)
    path = public_file if place == "file" else public_file.parent
    tokens = load_clip_tokenizer(path, load_clip(path))(["cat"], 6)
    assert tokens.tolist() == [[END - 1, 513, END, 0, 0, 0]]


def test_vocabulary_that_is_named_goes_before_one_beside(public_file: Path, tmp_path: Path) -> None:
    write_list(public_file.with_name(LIST), MERGES)
    named = write_list(tmp_path / "elsewhere" / "merges.list", ["a b", "ca t</w>", "c a"])
    tokens = load_clip_tokenizer(public_file, load_clip(public_file), named)(["cat"], 6)
    assert tokens.tolist() == [[END - 1, 513, END, 0, 0, 0]]
    with pytest.raises(DalleError, match="missing"):
        load_clip_tokenizer(public_file, load_clip(public_file), tmp_path / "missing")


def test_tokenizer_of_another_run_may_be_named(clip_run: Path, own_clip_run: Path) -> None:
    merges = RunDir(clip_run).tokenizer
    shutil.rmtree(own_clip_run / "tokenizer")
    tokenizer = load_clip_tokenizer(own_clip_run, load_clip(own_clip_run), merges)
    assert tokenizer.encode("a red circle") == Tokenizer.load(merges).encode("a red circle")


@pytest.mark.parametrize("merges", [MERGES[:2], [*MERGES, "o g"]])
@pytest.mark.parametrize("is_named", [True, False])
def test_vocabulary_of_another_clip_is_refused(
    is_named: bool, merges: list[str], public_file: Path
) -> None:
    vocabulary = write_list(public_file.with_name(LIST), merges)
    clip = load_clip(public_file)
    with pytest.raises(
        DalleError, match=rf"ends captions with token {513 + len(merges)}, .* token {END}"
    ) as caught:
        load_clip_tokenizer(public_file, clip, vocabulary if is_named else None)
    assert "another CLIP" in caught.value.hint


@pytest.mark.parametrize(("end_of_text", "fits"), [(END, True), (END + 9, False), (None, False)])
def test_vocabulary_may_be_smaller_than_the_clips_where_the_end_is_known(
    end_of_text: int | None, fits: bool, public_file: Path
) -> None:
    write_list(public_file.with_name(LIST), MERGES)
    clip = public_clip(END + 50, end_of_text)
    if fits:
        assert load_clip_tokenizer(public_file, clip).end_of_text == END
    else:
        with pytest.raises(DalleError, match="ends captions with token"):
            load_clip_tokenizer(public_file, clip)


def test_vocabulary_larger_than_the_clips_is_refused(public_file: Path) -> None:
    """Its end fits, its words would be looked for where the CLIP has no vector."""
    pieces = [*BYTE_SYMBOLS, *(f"{symbol}</w>" for symbol in BYTE_SYMBOLS), "ca"]
    pieces[7:7] = ["<|startoftext|>", "<|endoftext|>"]
    vocabulary = public_file.with_name("vocab.json")
    vocabulary.write_text(json.dumps({piece: number for number, piece in enumerate(pieces)}))
    vocabulary.with_name("merges.txt").write_text("c a\n")
    assert load_clip_tokenizer(
        public_file, public_clip(len(pieces), end_of_text=8)
    ).vocab_size == len(pieces)
    with pytest.raises(
        DalleError, match=rf"has {len(pieces)} tokens, the CLIP of .* knows 40"
    ) as caught:
        load_clip_tokenizer(public_file, public_clip(40, end_of_text=8))
    assert "another CLIP" in caught.value.hint


def test_clip_without_a_vocabulary_loads_and_says_so_when_it_is_to_read(public_file: Path) -> None:
    clip = load_clip(public_file)
    assert clip.encode_image(torch.zeros(1, 3, 12, 12)).shape == (1, 9)
    with pytest.raises(DalleError, match="has no vocabulary") as caught:
        load_clip_tokenizer(public_file, clip)
    assert LIST in caught.value.hint and "`--tokenizer`" in caught.value.hint


def test_damaged_vocabulary_is_told_by_name(public_file: Path) -> None:
    write_list(public_file.with_name(LIST), ["no merge at all"])
    with pytest.raises(DalleError, match=LIST):
        load_clip_tokenizer(public_file, load_clip(public_file))


def test_mistyped_path_is_not_asked_of_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "runs").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DalleError, match="no such CLIP: runs/clp") as caught:
        load_clip("runs/clp")
    assert "runs exists, but has no" in caught.value.hint
