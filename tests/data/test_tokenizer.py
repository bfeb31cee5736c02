"""Our encoding against brute force; dropout, round trips, files and the errors of learning."""

import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dalle_cli.data.tokenizer import (
    BOUNDARY,
    BYTE_CHARACTERS,
    LEARNERS,
    Tokenizer,
    byte_words,
    learn_merges,
)
from dalle_cli.errors import DalleError, UsageError

ROOT = Path(__file__).parents[2]


@pytest.fixture
def tokenizer(captions):
    return learn_merges(captions, 400, backend="tokenizers")


def merge_by_brute_force(tokenizer, word, dropout, rng):
    """Apply the first merge not dropped, lowest rank and leftmost first, until none is left."""
    ranks = {parts: rank for rank, parts in enumerate(tokenizer.merges)}
    symbols = list(word)
    while True:
        candidates = sorted(
            (ranks[pair], i) for i, pair in enumerate(pairwise(symbols)) if pair in ranks
        )
        chosen = next((i for _, i in candidates if dropout == 0 or rng.random() >= dropout), None)
        if chosen is None:
            return symbols
        symbols[chosen : chosen + 2] = ["".join(symbols[chosen : chosen + 2])]


def random_tokenizer(rng):
    """Merges no library would learn: of any known pieces, in any order."""
    known, merges = [BOUNDARY, "a", "b"], []
    for _ in range(rng.integers(40)):
        left, right = rng.choice(known), rng.choice(known[1:])
        if left + right not in known:
            merges.append((left, right))
            known.append(left + right)
    return Tokenizer(merges, "tokenizers")


@given(seed=st.integers(0), dropout=st.sampled_from([0.0, 0.1, 0.5, 0.9, 1.0]))
@settings(max_examples=300, deadline=None)
def test_encoding_matches_brute_force(seed, dropout):
    rng = np.random.default_rng(seed)
    tokenizer = random_tokenizer(rng)
    caption = "".join(rng.choice(list("aaaabbbb "), size=rng.integers(60)))
    expected = []
    draws = np.random.default_rng(seed)
    for word in byte_words(caption):
        expected += merge_by_brute_force(tokenizer, word, dropout, draws)
    tokens = tokenizer.encode(caption, dropout=dropout, rng=np.random.default_rng(seed))
    assert [tokenizer.pieces[token] for token in tokens] == expected


@given(st.text(), st.sampled_from([0.0, 0.3]))
@settings(deadline=None)
def test_any_text_comes_back_lower_cased_with_single_spaces(text, dropout):
    tokenizer = Tokenizer([(BOUNDARY, "t"), ("h", "e"), (BOUNDARY + "t", "he")], "tokenizers")
    tokens = tokenizer.encode(text, dropout=dropout, rng=np.random.default_rng(0))
    assert tokenizer.decode(tokens) == " ".join(text.lower().split())


def test_text_without_utf8_is_encoded_all_the_same(tokenizer):
    assert tokenizer.decode(tokenizer.encode("cat\udcff")).rstrip("\ufffd") == "cat"


def test_byte_characters_are_distinct_printable_and_no_boundary():
    assert len(set(BYTE_CHARACTERS) | {BOUNDARY}) == 257
    assert all(c.isprintable() and not c.isspace() and len(c) == 1 for c in BYTE_CHARACTERS)


def test_ids_are_bytes_then_boundary_then_merges_in_rank_order(tokenizer):
    assert tokenizer.pieces[257:] == [left + right for left, right in tokenizer.merges]
    assert Tokenizer([], "tokenizers").encode(" É\n!") == [256, *"é".encode(), 256, ord("!")]
    assert tokenizer.encode(" \t\n") == []


def test_whole_dropout_leaves_single_symbols(tokenizer, captions):
    caption = captions[0].lower()
    symbols = [token for word in caption.split() for token in (256, *word.encode())]
    assert tokenizer.encode(caption, dropout=1.0, rng=np.random.default_rng(0)) == symbols


def test_more_dropout_gives_more_tokens_and_the_same_text(tokenizer, captions):
    rng = np.random.default_rng(0)
    means = []
    for dropout in (0.0, 0.1, 0.3, 0.6, 1.0):
        runs = [tokenizer.encode(captions[1], dropout=dropout, rng=rng) for _ in range(200)]
        assert {tokenizer.decode(tokens) for tokens in runs} == {captions[1]}
        means.append(np.mean([len(tokens) for tokens in runs]))
    assert means == sorted(set(means))


def test_dropout_is_a_function_of_the_generator_and_leaves_no_trace(tokenizer, captions):
    plain = tokenizer.encode(captions[1])
    first, second = (
        tokenizer.encode(captions[1], dropout=0.5, rng=np.random.default_rng(7)) for _ in range(2)
    )
    assert first == second != plain
    assert tokenizer.encode(captions[1]) == plain


@pytest.mark.parametrize(
    ("dropout", "rng"),
    [(0.1, None), (-0.1, np.random.default_rng()), (np.nan, np.random.default_rng())],
)
def test_dropout_needs_a_probability_and_a_generator(tokenizer, dropout, rng):
    with pytest.raises(ValueError, match="a probability and a generator"):
        tokenizer.encode("cat", dropout=dropout, rng=rng)


def test_a_word_of_twenty_thousand_letters_is_encoded(tokenizer):
    word = "thecatbandanas" * 1429
    for dropout in (0.0, 0.1):
        tokens = tokenizer.encode(word, dropout=dropout, rng=np.random.default_rng(0))
        assert len(tokens) < len(word)
        assert tokenizer.decode(tokens) == word


def test_a_cut_character_decodes_as_replacement(tokenizer):
    assert tokenizer.decode([256, *"né".encode()[:-1]]) == "n\ufffd"


@pytest.mark.parametrize("foreign", [-1, 10**6])
def test_decoding_a_foreign_id_names_it(tokenizer, foreign):
    with pytest.raises(ValueError, match=f"token id {foreign} is outside"):
        tokenizer.decode([5, foreign])


def test_a_vocabulary_without_room_for_a_merge_names_the_minimum(captions):
    with pytest.raises(UsageError, match="too small: 257, the minimum is 258"):
        learn_merges(captions, 257)


@pytest.mark.parametrize("captions", [[], ["", " \n"]])
def test_learning_from_no_words_is_an_error(captions):
    with pytest.raises(DalleError, match="no caption to learn a tokenizer from"):
        learn_merges(captions, 300)


def test_auto_takes_the_library_that_is_there_and_records_it(backend, monkeypatch, captions):
    for other in set(LEARNERS) - {backend}:
        monkeypatch.setitem(sys.modules, other, None)
        with pytest.raises(DalleError, match=f"not installed: {other}"):
            learn_merges(captions, 300, backend=other)
    assert learn_merges(captions, 300).learnt_with == backend


def test_auto_prefers_youtokentome(captions):
    pytest.importorskip("youtokentome")
    assert learn_merges(captions, 300).learnt_with == "youtokentome"


def test_a_saved_tokenizer_is_readable_and_comes_back_whole(backend, tmp_path, captions):
    tokenizer = learn_merges(captions, 400, backend=backend)
    tokenizer.save(tmp_path / "merges.json")
    loaded = Tokenizer.load(tmp_path / "merges.json")
    assert (loaded.merges, loaded.learnt_with) == (tokenizer.merges, backend)
    assert [loaded.encode(caption) for caption in captions] == [
        tokenizer.encode(caption) for caption in captions
    ]
    left, right = tokenizer.merges[0]
    assert (
        f'"{left} {right}",' in (tmp_path / "merges.json").read_text(encoding="utf-8").splitlines()
    )


def test_loading_and_encoding_import_no_tokenizer_library(tokenizer, tmp_path):
    tokenizer.save(tmp_path / "merges.json")
    program = (
        "import sys; from dalle_cli.data.tokenizer import Tokenizer;"
        "Tokenizer.load(sys.argv[1]).encode('the cat');"
        "print(*{'youtokentome', 'tokenizers', 'torch'} & set(sys.modules))"
    )
    command = [sys.executable, "-c", program, tmp_path / "merges.json"]
    imported = subprocess.run(
        command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True
    ).stdout.split()
    assert imported == []


def merges_file(merges, head='"schema_version": 1, "learnt_with": "tokenizers"'):
    return f'{{{head}, "merges": {merges}}}'.encode()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        pytest.param(b"", "Invalid JSON", id="empty"),
        pytest.param(b"\xff\xfe\x00", "Invalid JSON", id="not UTF-8"),
        pytest.param(b"[" * 100_000, "Invalid JSON", id="nested"),
        pytest.param(merges_file('["t h"')[:-1], "Invalid JSON", id="cut"),
        pytest.param(b"[]", "object", id="list"),
        pytest.param(
            merges_file("[]", '"schema_version": true, "learnt_with": "tokenizers"'),
            "schema_version",
            id="newer",
        ),
        pytest.param(
            merges_file("[]", '"schema_version": 1, "learnt_with": "\\u001b[2J"'),
            "learnt_with",
            id="library",
        ),
        pytest.param(merges_file("[3]"), "merges: .* string", id="number"),
        pytest.param(merges_file('["t h", "th"]'), "merge 1 joins pieces", id="one piece"),
        pytest.param(merges_file('["t h", "th e e"]'), "merge 1 joins pieces", id="three pieces"),
        pytest.param(merges_file('["th e", "t h"]'), "merge 0 joins pieces", id="out of order"),
        pytest.param(
            merges_file('["t h", "t h"]'),
            "merge 1 makes a piece that already exists",
            id="repeated",
        ),
    ],
)
def test_a_file_that_is_no_tokenizer_is_named_with_a_reason(tmp_path, content, reason):
    path = tmp_path / "merges.json"
    path.write_bytes(content)
    with pytest.raises(
        DalleError, match=f"merges.json is not a tokenizer file: .*{reason}"
    ) as caught:
        Tokenizer.load(path)
    assert caught.value.message.isprintable()


def test_a_missing_tokenizer_file_is_named(tmp_path):
    with pytest.raises(DalleError, match=r"cannot read the tokenizer .*merges.json: No such file"):
        Tokenizer.load(tmp_path / "merges.json")
