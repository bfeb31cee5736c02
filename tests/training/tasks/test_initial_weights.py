"""A run that starts from another's weights: what fits is taken, and what does not is told."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from dalle_cli.console import Terminal
from dalle_cli.data.tokenizer import Tokenizer
from dalle_cli.loading import build_clip, build_dvae, trained_clip_table
from dalle_cli.recipe import load_recipe
from dalle_cli.storage.integrity.tensor_files import write_checksummed_tensors
from dalle_cli.storage.run_dir import RunDir
from dalle_cli.training.tasks.fused_losses import build_fused_transformer
from dalle_cli.training.tasks.initial_weights import TEXT_ROWS, start_from, take_weights

KINDS = ["dvae", "transformer", "clip"]
WITH_TEXT = ["transformer", "clip"]
STILL = ["--steps", "1", "--set", "optimizer.lr={start=0.0, end=0.0, share=1.0}"]


@pytest.fixture
def run_of(request: pytest.FixtureRequest) -> Callable[[str], RunDir]:
    return lambda kind: RunDir(request.getfixturevalue(f"{kind}_run"))


@pytest.fixture
def train(pairs: Path, dvae_run: Path, dalle: Callable) -> Callable:
    """Train for an update that changes no weight."""

    def train_kind(kind: str, run: Path, *words: object, data: Path = pairs):
        own = ["--dvae", dvae_run] if kind == "transformer" else []
        shared = ["--data", data, "--run", run, *own, *STILL]
        return dalle(f"train-{kind}", f"{kind}/tiny", *shared, *words)

    return train_kind


def weights_of(run: RunDir) -> dict[str, Tensor]:
    return load_file(run.model / "model.safetensors")


def fresh_model(kind: str, tokenizer: Tokenizer | None) -> nn.Module:
    torch.manual_seed(7)
    if kind == "dvae":
        return build_dvae(load_recipe("dvae/tiny", [], kind="dvae").model)
    assert tokenizer is not None
    if kind == "clip":
        model = load_recipe("clip/tiny", [], kind="clip").model
        return build_clip(trained_clip_table(model, tokenizer.vocab_size))
    model = load_recipe("transformer/tiny", [], kind="transformer").model
    return build_fused_transformer(model, tokenizer.vocab_size)


def tokenizer_of(run: RunDir, kind: str) -> Tokenizer | None:
    return None if kind == "dvae" else Tokenizer.load(run.tokenizer)


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_recipe_takes_all_weights(
    kind: str, run_of: Callable, train: Callable, tmp_path: Path
) -> None:
    source, run = run_of(kind), RunDir(tmp_path / "run")
    ended = train(kind, run.root, "--init-from", source.root)
    assert ended.code == 0 and "fresh: " not in ended.err
    assert f"started from {source.root}: " in ended.err and "learnt a vocabulary" not in ended.err

    before, after = weights_of(source), weights_of(run)
    assert before.keys() == after.keys()
    for name, weight in before.items():
        torch.testing.assert_close(after[name], weight, rtol=0, atol=1e-7, msg=name)
    command = json.loads(run.recipe.read_text())["command"]
    assert command["init_from"] == str(source.root)


@pytest.mark.parametrize("kind", WITH_TEXT)
def test_rows_of_shared_tokens_are_taken_by_token_and_the_others_stay_fresh(
    kind: str, run_of: Callable
) -> None:
    """In the other vocabulary every merge has another rank, and some are missing."""
    source = run_of(kind)
    theirs = Tokenizer.load(source.tokenizer)
    few = [
        theirs.merges[i]
        for i in range(0, len(theirs.merges))
        if len("".join(theirs.merges[i])) == 2
    ]
    ours = Tokenizer([*reversed(few), ("z", "z"), ("zz", "z")], theirs.learnt_with)
    model, untouched = fresh_model(kind, ours), fresh_model(kind, ours)
    start_from(source.root, model, kind, tokenizer=ours, terminal=Terminal(quiet=True))

    rows = theirs.pieces + [None] * 9
    given, state, fresh = weights_of(source), model.state_dict(), untouched.state_dict()
    for name in TEXT_ROWS[kind]:
        for i, piece in enumerate(ours.pieces):
            known = piece in theirs.pieces
            expected = given[name][rows.index(piece)] if known else fresh[name][i]
            assert torch.equal(state[name][i], expected), (name, piece)
        if kind == "clip":  # start and end of text follow the last piece
            assert torch.equal(state[name][-2:], given[name][-2:])
    for name in state.keys() - set(TEXT_ROWS[kind]):
        assert torch.equal(state[name], given[name]), name


def test_another_width_takes_nothing_of_it_and_is_told(
    run_of: Callable, train: Callable, tmp_path: Path
) -> None:
    source = run_of("transformer").root
    ended = train(
        "transformer", tmp_path / "run", "--init-from", source, "--set", "model.text_len=20"
    )
    assert ended.code == 0
    (line,) = [line for line in ended.err.splitlines() if line.startswith("fresh: ")]
    assert line == "fresh: text_padding, text_position"
    deep = train(
        "transformer", tmp_path / "deep", "--init-from", source, "--set", "model.n_layers=5"
    )
    (line,) = [line for line in deep.err.splitlines() if line.startswith("fresh: ")]
    assert "blocks.4.attention.norm.weight" in line and line.endswith(" more")


def test_text_rows_are_left_fresh_where_no_vocabulary_is_known() -> None:
    model = nn.Embedding(4, 2)
    before = model.weight.clone()
    taken = take_weights(model, {"weight": torch.ones(4, 2)}, text_rows=["weight"])
    assert taken.fresh == ["weight"] and torch.equal(model.weight, before)


@pytest.mark.parametrize(
    ("kind", "other"), [("dvae", "clip"), ("transformer", "dvae"), ("clip", "transformer")]
)
def test_another_kind_of_model_is_refused_before_anything_is_written(
    kind: str, other: str, run_of: Callable, train: Callable, tmp_path: Path
) -> None:
    for words in ([], ["--dry-run"]):
        ended = train(kind, tmp_path / "run", "--init-from", run_of(other).root, *words)
        assert ended.code == 2 and f"holds a {other}, not a {kind}" in ended.err
    assert "no such run" in train(kind, tmp_path / "run", "--init-from", tmp_path / "absent").err
    assert not (tmp_path / "run").exists()


def test_an_export_serves_as_well(
    run_of: Callable, train: Callable, dalle: Callable, tmp_path: Path
) -> None:
    source = run_of("transformer")
    assert dalle("export", source.root, "--out", tmp_path / "export").code == 0
    ended = train("transformer", tmp_path / "run", "--init-from", tmp_path / "export")
    assert ended.code == 0 and "fresh: " not in ended.err
    assert RunDir(tmp_path / "run").tokenizer.read_bytes() == source.tokenizer.read_bytes()


@pytest.mark.parametrize("kind", WITH_TEXT)
def test_new_words_get_tokens_and_the_old_ones_keep_their_rows(
    kind: str, run_of: Callable, train: Callable, make_pairs: Callable, tmp_path: Path
) -> None:
    data = make_pairs(tmp_path / "data", 12)
    for caption in data.glob("*.txt"):
        caption.write_text("a turquoise octopus\n")
    earlier = run_of(kind)
    old = Tokenizer.load(earlier.tokenizer)
    words = ["--init-from", earlier.root, "--set", "tokenizer.vocab_size=400"]
    ended = train(kind, tmp_path / "run", *words, data=data)
    assert ended.code == 0, ended.err

    run = RunDir(tmp_path / "run")
    new = Tokenizer.load(run.tokenizer)
    assert new.merges[: len(old.merges)] == old.merges
    assert [new.pieces[i] for i in new.encode("octopus")] == ["▁octopus"]
    assert len(old.encode("octopus")) > 1
    before, after = weights_of(earlier), weights_of(run)
    for name in TEXT_ROWS[kind]:
        kept, given = after[name][: old.vocab_size], before[name][: old.vocab_size]
        torch.testing.assert_close(kept, given, rtol=0, atol=1e-7, msg=name)


def test_a_vocabulary_without_room_is_kept(
    run_of: Callable, train: Callable, tmp_path: Path
) -> None:
    earlier = run_of("clip")
    words = ["--init-from", earlier.root, "--set", "tokenizer.vocab_size=300"]
    ended = train("clip", tmp_path / "run", *words)
    assert ended.code == 0 and "`tokenizer.vocab_size=300` leaves no room for more" in ended.err
    assert RunDir(tmp_path / "run").tokenizer.read_bytes() == earlier.tokenizer.read_bytes()


def test_a_run_that_is_resumed_remembers_what_it_started_from(
    run_of: Callable, train: Callable, dalle: Callable, tmp_path: Path
) -> None:
    """Also where it was stopped before its first checkpoint."""
    source, run = run_of("dvae"), RunDir(tmp_path / "run")
    assert train("dvae", run.root, "--init-from", source.root).code == 0
    before = weights_of(run)
    shutil.rmtree(run.checkpoints)
    shutil.rmtree(run.model)
    ended = dalle("resume", run.root)
    assert ended.code == 0 and f"started from {source.root}" in ended.err
    assert all(torch.equal(before[name], weight) for name, weight in weights_of(run).items())

    assert "started from" not in train("dvae", run.root).err
    other = train("dvae", run.root, "--init-from", tmp_path)
    assert other.code == 2 and "did not start from" in other.err


def test_a_transformer_on_tokens_of_another_dvae_is_warned_of(
    run_of: Callable, own_dvae_run: Path, train: Callable, tmp_path: Path
) -> None:
    weights = RunDir(own_dvae_run).checkpoint(3) / "ema.safetensors"
    write_checksummed_tensors(own_dvae_run / "model" / "model.safetensors", load_file(weights))
    words = ["--init-from", run_of("transformer").root]
    told = "learnt the image tokens of another dVAE"
    assert told not in train("transformer", tmp_path / "same", *words).err
    assert told in train("transformer", tmp_path / "run", *words, "--dvae", own_dvae_run).err
