"""The tokenizer of a run: learnt once from what it trains on, or given, and kept by the run."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from dalle_cli.data.sources import open_dataset, validation_split
from dalle_cli.data.text.known_words import KnownWords
from dalle_cli.data.tokenizer import Tokenizer, learn_merges
from dalle_cli.storage.run_dir import RunDir

VALIDATION_SHARE, VOCAB_SIZE = 0.1, 320  # of the tiny recipes
N_SPECIALS = {"transformer": 0, "clip": 2}  # entries beside the tokenizer's
with_captions = pytest.mark.parametrize("kind", N_SPECIALS)


@pytest.fixture
def train(pairs: Path, dvae_run: Path, dalle: Callable, settings: Callable) -> Callable:
    """Train a model that reads captions, with changes to the shared settings."""

    def train_kind(kind: str, run: Path, *words: object, data: Path = pairs, **changes: object):
        own = ["--dvae", dvae_run] if kind == "transformer" else []
        return dalle(
            f"train-{kind}",
            f"{kind}/tiny",
            "--data",
            data,
            "--run",
            run,
            *own,
            *settings(**changes),
            *words,
        )

    return train_kind


@pytest.fixture
def begin(train: Callable, tmp_path: Path) -> Callable:
    """Begin a run of one update."""
    return lambda kind, *words, training__steps=1, **options: train(
        kind, tmp_path / "run", *words, training__steps=training__steps, **options
    )


@pytest.fixture
def own_run(request: pytest.FixtureRequest) -> Callable[[str], RunDir]:
    """Give the finished run of a kind, to be written into."""
    return lambda kind: RunDir(request.getfixturevalue(f"own_{kind}_run"))


@pytest.fixture
def other_file(clip_run: Path, tmp_path: Path) -> Path:
    """A tokenizer with three merges fewer than what the tiny runs learn."""
    learnt = Tokenizer.load(RunDir(clip_run).tokenizer)
    Tokenizer(learnt.merges[:-3], learnt.learnt_with).save(tmp_path / "other.json")
    return tmp_path / "other.json"


def learnt_by_hand(data: Path, but: tuple[str, ...] = ()) -> Tokenizer:
    source = open_dataset(str(data), captions_required=True)
    trained_on, _ = validation_split(source, VALIDATION_SHARE)
    captions = [
        (data / f"{source.key(int(i))}.txt").read_bytes()
        for i in trained_on
        if source.key(int(i)) not in but
    ]
    return learn_merges((caption.decode() for caption in captions), VOCAB_SIZE)


@with_captions
def test_vocabulary_is_learnt_from_the_training_captions_alone(
    kind: str, request: pytest.FixtureRequest, pairs: Path
) -> None:
    learnt = Tokenizer.load(RunDir(request.getfixturevalue(f"{kind}_run")).tokenizer)
    all_captions = [path.read_text() for path in pairs.glob("*.txt")]
    assert (
        learnt.merges
        == learnt_by_hand(pairs).merges
        != learn_merges(all_captions, VOCAB_SIZE).merges
    )


@with_captions
def test_caption_that_cannot_be_read_is_left_out(
    kind: str, begin: Callable, make_pairs: Callable, tmp_path: Path
) -> None:
    data = make_pairs(tmp_path / "data", 12)
    (data / "003.txt").write_bytes(b"a \xff ring")
    ended = begin(kind, data=data, data__max_bad_share=0.5)
    assert ended.code == 0, ended.err
    learnt = Tokenizer.load(RunDir(tmp_path / "run").tokenizer)
    assert learnt.merges == learnt_by_hand(data, but=("003",)).merges


@pytest.mark.thorough
@with_captions
def test_captions_that_are_cut_are_told_once_with_their_share(
    kind: str, begin: Callable, pairs: Path, tmp_path: Path
) -> None:
    ended = begin(kind, model__text_len=40)
    tokenizer = Tokenizer.load(RunDir(tmp_path / "run").tokenizer)
    trained_on = open_dataset(str(pairs), captions_required=True)
    lengths = sorted(
        len(tokenizer.encode(trained_on.captions(int(index))[0]))
        for index in validation_split(trained_on, VALIDATION_SHARE)[0]
    )
    fitting = lengths[0]  # the shortest caption fits, and some are longer
    share = sum(length > fitting for length in lengths) / len(lengths)
    text_len = fitting + {"transformer": 1, "clip": 2}[kind]
    assert "are cut" not in ended.err and 0 < share < 1

    shutil.rmtree(tmp_path / "run")
    ended = begin(kind, model__text_len=text_len)
    told = f"{share:.0%} of the captions are longer than {fitting} tokens and are cut"
    enough = text_len + lengths[-1] - fitting
    assert ended.err.count(told) == 1
    assert f"--set model.text_len={enough}` holds 99 % of them" in ended.err
    assert "are cut" not in begin(kind, model__text_len=text_len, training__steps=2).err


@pytest.mark.thorough
@with_captions
def test_tokenizer_that_is_named_is_taken(
    kind: str, begin: Callable, other_file: Path, tmp_path: Path
) -> None:
    ended = begin(kind, "--tokenizer", other_file)
    assert ended.code == 0 and "learnt a vocabulary" not in ended.err
    run, named = RunDir(tmp_path / "run"), Tokenizer.load(other_file)
    assert Tokenizer.load(run.tokenizer).merges == named.merges
    config = json.loads((run.model / "config.json").read_text())
    assert config["model"]["text_vocab_size"] == named.vocab_size + N_SPECIALS[kind]


def test_tokenizer_of_another_run_is_taken(
    begin: Callable, transformer_run: Path, tmp_path: Path
) -> None:
    lent = RunDir(transformer_run).tokenizer
    assert begin("clip", "--tokenizer", lent, tokenizer__vocab_size=400).code == 0
    assert RunDir(tmp_path / "run").tokenizer.read_bytes() == lent.read_bytes()


@with_captions
def test_tokenizer_larger_than_the_recipe_allows_is_refused_with_the_way_out(
    kind: str, begin: Callable, other_file: Path, tmp_path: Path
) -> None:
    size = Tokenizer.load(other_file).vocab_size
    ended = begin(kind, "--tokenizer", other_file, tokenizer__vocab_size=size - 1)
    assert ended.code == 2 and f"{size} entries" in ended.err and f"allows {size - 1}" in ended.err
    assert f"`--set tokenizer.vocab_size={size}`" in ended.err
    assert not (tmp_path / "run").exists()
    assert begin(kind, "--tokenizer", other_file, tokenizer__vocab_size=size).code == 0


@pytest.mark.parametrize(
    ("content", "code", "told"),
    [(None, 2, "no such tokenizer"), ("{}", 1, "is not a tokenizer file")],
    ids=["absent", "foreign"],
)
@with_captions
def test_file_that_is_no_tokenizer_is_told_before_anything_is_written(
    kind: str, content: str | None, code: int, told: str, begin: Callable, tmp_path: Path
) -> None:
    if content is not None:
        (tmp_path / "merges.json").write_text(content)
    ended = begin(kind, "--tokenizer", tmp_path / "merges.json")
    assert ended.code == code and told in ended.err
    assert not (tmp_path / "run").exists()


@with_captions
def test_another_tokenizer_is_refused_on_resuming_and_nothing_is_touched(
    kind: str, own_run: Callable, train: Callable, other_file: Path, tree: Callable
) -> None:
    run = own_run(kind)
    shutil.rmtree(run.checkpoint(11))
    before = tree(run.root)
    ended = train(kind, run.root, "--tokenizer", other_file)
    assert ended.code == 2 and "is not the tokenizer this run began with" in ended.err
    assert "hint: leave out --tokenizer" in ended.err
    assert tree(run.root) == before


@with_captions
def test_a_runs_own_tokenizer_may_be_named_on_resuming(
    kind: str, own_run: Callable, train: Callable
) -> None:
    run = own_run(kind)
    shutil.rmtree(run.checkpoint(11))
    ended = train(kind, run.root, "--tokenizer", run.tokenizer)
    assert (
        ended.code == 0
        and "resumed after step 9" in ended.err
        and "learnt a vocabulary" not in ended.err
    )


@pytest.mark.thorough
@with_captions
def test_vocabulary_that_a_crash_left_unwritten_is_learnt_again(
    kind: str, own_run: Callable, train: Callable, request: pytest.FixtureRequest
) -> None:
    """The record of a new run is its first file; the power may fail before the tokenizer's."""
    run = own_run(kind)
    for folder in (run.tokenizer.parent, run.checkpoints, run.model):
        shutil.rmtree(folder)
    assert train(kind, run.root).code == 0
    whole = RunDir(request.getfixturevalue(f"{kind}_run"))
    assert run.tokenizer.read_bytes() == whole.tokenizer.read_bytes()


def test_words_of_the_training_captions_are_kept_beside_the_tokenizer(
    transformer_run: Path, clip_run: Path, pairs: Path
) -> None:
    source = open_dataset(str(pairs), captions_required=True)
    trained_on, _ = validation_split(source, VALIDATION_SHARE)
    captions = [(pairs / f"{source.key(int(i))}.txt").read_text() for i in trained_on]
    known = KnownWords.load(RunDir(transformer_run).known_words)
    assert known == KnownWords(frozenset(" ".join(captions).split()), is_complete=True)
    assert not RunDir(clip_run).known_words.exists()


def test_resumed_run_keeps_its_words_and_gets_none_that_it_lacks(
    own_transformer_run: Path, dalle: Callable
) -> None:
    words = RunDir(own_transformer_run).known_words
    KnownWords(frozenset({"zebra"})).save(words)
    assert dalle("resume", own_transformer_run, "--extend", 1).code == 0
    assert KnownWords.load(words).words == {"zebra"}

    words.unlink()
    assert dalle("resume", own_transformer_run, "--extend", 1).code == 0
    assert not words.exists()


def test_given_tokenizer_comes_with_the_words_of_the_captions(
    begin: Callable, other_file: Path, tmp_path: Path
) -> None:
    assert begin("transformer", "--tokenizer", other_file).code == 0
    assert "circle" in KnownWords.load(RunDir(tmp_path / "run").known_words).words


def test_run_that_starts_from_another_knows_its_words_too(
    begin: Callable, own_run: Callable, tmp_path: Path
) -> None:
    earlier = own_run("transformer")
    KnownWords(frozenset({"zebra"})).save(earlier.known_words)
    assert begin("transformer", "--init-from", earlier.root).code == 0
    known = KnownWords.load(RunDir(tmp_path / "run").known_words)
    assert {"zebra", "circle"} <= known.words


def test_words_are_not_recorded_where_those_of_the_earlier_run_are_not(
    begin: Callable, own_run: Callable, tmp_path: Path
) -> None:
    earlier = own_run("transformer")
    earlier.known_words.unlink()
    assert begin("transformer", "--init-from", earlier.root).code == 0
    assert not RunDir(tmp_path / "run").known_words.exists()


@with_captions
def test_tokenizer_that_is_no_file_is_told_and_stays(
    kind: str, own_run: Callable, train: Callable
) -> None:
    """It is not learnt anew: the run has learnt with another."""
    run = own_run(kind)
    run.tokenizer.unlink()
    run.tokenizer.symlink_to("/dev/zero")
    ended = train(kind, run.root)
    assert ended.code == 1
    assert f"cannot read the tokenizer {run.tokenizer}: not a regular file" in ended.err
    assert run.tokenizer.is_symlink()
