"""CLIP's tokens against brute force and transformers, on a toy vocabulary and any public one."""

import gzip
import importlib.util
import json
import os
import random
import re
import tarfile
import unicodedata
from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from dalle_cli.data.clip_tokenizer import (
    MAX_BYTES,
    N_MERGES,
    find_clip_vocabulary,
    frame,
    own_clip_tokenizer,
    read_clip_vocabulary,
)
from dalle_cli.data.tokenizer import BOUNDARY, Tokenizer
from dalle_cli.errors import DalleError

SHARED_DATA = Path(__file__).parents[2] / ".." / "shared" / "data"
LIST, PACKED_LIST = "bpe_simple_vocab_16e6.txt", "bpe_simple_vocab_16e6.txt.gz"
START, END = "<|startoftext|>", "<|endoftext|>"
HEADER = '"a list of merges#version: 0.2'
CORPUS = """a photo of a cat , a photo of the cat 's mat . they 're here , i 've 2 hats !
 it 's the café , 猫 猫 坐在
 🐱 🐱 don 't do that !! i 'll be there , we 'd say ... über über straße straße
 naïve 12 12 ½ ½ e\u0301te\u0301"""
NASTY = [
    "",
    " \t\r\n ",
    "A Photo of the CAT's mat!",
    "They'RE here; I'VE, I'll, we'd, don't, it''s 'tis '",
    "12,345 cats ½ ²³ Ⅷ ٣٤",
    "!!!...???---(((",
    "🐱 👩‍🚀 🏳️‍🌈 cat🐱cat",
    "猫坐在垫子上 猫。ねこ 고양이",
    "cafe\u0301 CAFÉ Straße ẞ İstanbul ΣΑΣ ﬁne",
    "a\u00a0photo\u2003of\u3000a\u2028cat\u200b\x85\x0b\x1c\ufeff",
    "a <|endoftext|> cat<|startoftext|>mat",
    "<|ENDOFTEXT|> <|startoftext| > <|endoftext|",
    "<start_of_text> a cat <end_of_text>",
    "the</w> cat</w>",
    "\x00\x07\x1b[2J cat_photo a\\b &amp; “quotes”",
]


def byte_symbols():
    """Map each byte to its symbol in GPT-2's alphabet, in CLIP's order."""
    visible = [byte for byte in range(256) if chr(byte).isprintable() and chr(byte) != " "]
    others = [byte for byte in range(256) if byte not in visible]
    return {
        **{byte: chr(byte) for byte in visible},
        **{byte: chr(256 + n) for n, byte in enumerate(others)},
    }


SYMBOLS = byte_symbols()


def word_symbols(word):
    *inner, last = [SYMBOLS[byte] for byte in word.encode()]
    return [*inner, last + "</w>"]


def join(symbols, pair):
    """Replace the pair from left to right."""
    joined = []
    for symbol in symbols:
        if joined and (joined[-1], symbol) == pair:
            joined[-1] += symbol
        else:
            joined.append(symbol)
    return joined


def learn_toy_merges(n_merges):
    words, merges = [word_symbols(word) for word in CORPUS.split()], []
    for _ in range(n_merges):
        counts = Counter(pair for word in words for pair in pairwise(word))
        merges.append(max(counts, key=lambda pair: (counts[pair], pair)))
        words = [join(word, merges[-1]) for word in words]
    return merges


MERGES = learn_toy_merges(60)
MERGE_LINES = [" ".join(merge) for merge in MERGES]
PIECES = [
    *SYMBOLS.values(),
    *(s + "</w>" for s in SYMBOLS.values()),
    *map("".join, MERGES),
    START,
    END,
]
VOCABULARY = {piece: i for i, piece in enumerate(PIECES)}


def list_file(lines, header=HEADER):
    return "\n".join([header, *lines, ""]).encode()


def tokenizer_file(vocabulary=VOCABULARY, merges=MERGE_LINES, **changes):
    model = {
        "type": "BPE",
        "end_of_word_suffix": "</w>",
        "vocab": vocabulary,
        "merges": merges,
        **changes,
    }
    return json.dumps(
        {"version": "1.0", "normalizer": {"type": "Lowercase"}, "model": model}
    ).encode()


LAYOUTS = {
    "packed list": {PACKED_LIST: gzip.compress(list_file(MERGE_LINES))},
    "list": {LIST: list_file(MERGE_LINES)},
    "vocabulary and merges": {
        "vocab.json": json.dumps(VOCABULARY).encode(),
        "merges.txt": list_file(MERGE_LINES, "#version: 0.2"),
    },
    "tokenizer": {"tokenizer.json": tokenizer_file()},
}


def write(folder, files):
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder / next(iter(files))


@pytest.fixture
def toy(tmp_path):
    return read_clip_vocabulary(write(tmp_path, LAYOUTS["list"]))


def words_by_brute_force(caption):
    """Normalise and scan for contractions, letters, one digit, or anything else, in that order."""
    rest = re.sub(r"\s+", " ", unicodedata.normalize("NFC", caption)).lower()
    kind = {"L": "letter", "N": "digit", "Z": "blank"}
    words = []
    while rest:
        contraction = re.match("'s|'t|'re|'ve|'m|'ll|'d", rest)
        kinds = [kind.get(unicodedata.category(character)[0], "other") for character in rest]
        length = next((i for i, other in enumerate(kinds) if other != kinds[0]), len(kinds))
        length = (
            contraction.end() if contraction else 1 if kinds[0] in ("digit", "blank") else length
        )
        words.append(rest[:length])
        rest = rest[length:]
    return [word for word in words if word != " "]


def ids_by_brute_force(caption):
    ranks = {merge: rank for rank, merge in enumerate(MERGES)}
    ids = []
    for word in words_by_brute_force(caption):
        symbols = word_symbols(word)
        while known := [pair for pair in pairwise(symbols) if pair in ranks]:
            symbols = join(symbols, min(known, key=ranks.__getitem__))
        ids += [VOCABULARY[symbol] for symbol in symbols]
    return ids


@pytest.fixture(scope="module")
def transformers_ids():
    """What transformers' tokenizer makes of a caption, with a vocabulary and merges like ours."""
    transformers = pytest.importorskip("transformers")
    reference = transformers.CLIPTokenizer(VOCABULARY, MERGES)
    return lambda caption: reference(caption)["input_ids"]


@given(caption=st.text("aacehotTHE's!.,12½éüß猫坐🐱 \t\n", max_size=60))
@example(CORPUS)
@settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_ids_match_brute_force(toy, caption):
    assert toy.encode(caption) == ids_by_brute_force(caption)


@pytest.mark.parametrize("caption", NASTY, ids=ascii)
def test_nasty_captions_give_the_ids_of_transformers(toy, transformers_ids, caption):
    assert [toy.start_of_text, *toy.encode(caption), toy.end_of_text] == transformers_ids(caption)


@pytest.mark.thorough
@given(caption=st.text(max_size=40))
@settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_any_text_gives_the_ids_of_transformers(toy, transformers_ids, caption):
    assert [toy.start_of_text, *toy.encode(caption), toy.end_of_text] == transformers_ids(caption)


def test_text_without_utf8_is_read_as_replacement_characters(toy):
    assert toy.encode("cat\ud800 \udcff") == toy.encode("cat\ufffd \ufffd")


def test_a_caption_of_twenty_thousand_words_is_cut_to_the_context(toy):
    (row,) = toy(["the cat's mat " * 5000], 77)
    assert row.tolist() == [
        toy.start_of_text,
        *toy.encode("the cat's mat " * 30)[:75],
        toy.end_of_text,
    ]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_is_found_and_gives_the_same_tokens(tmp_path, toy, layout):
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    path = write(folder, LAYOUTS[layout])
    (folder / "config.json").write_text("{}")
    assert find_clip_vocabulary(folder) == path
    read = read_clip_vocabulary(path)
    assert (read.start_of_text, read.end_of_text, read.vocab_size) == (572, 573, 512 + 60 + 2)
    assert [read.encode(caption) for caption in NASTY] == [toy.encode(caption) for caption in NASTY]


def test_no_vocabulary_is_found_in_a_folder_without_a_whole_one(tmp_path):
    assert find_clip_vocabulary(tmp_path / "missing") is None
    (tmp_path / "vocab.json").write_text("{}")
    (tmp_path / "tokenizer.json").mkdir()
    assert find_clip_vocabulary(tmp_path) is None


def test_merges_as_pairs_and_lines_of_windows_are_read(tmp_path, toy):
    pairs = write(tmp_path, {"tokenizer.json": tokenizer_file(merges=MERGES)})
    lines = write(tmp_path, {"list.txt": list_file(MERGE_LINES).replace(b"\n", b"\r\n")})
    for path in (pairs, lines):
        assert read_clip_vocabulary(path).encode(CORPUS) == toy.encode(CORPUS)


def test_merges_beyond_those_that_clip_uses_are_ignored(tmp_path):
    letters = [SYMBOLS[byte] for byte in range(0x80)]
    pairs = [f"{a} {b}" for a in letters for b in letters]
    triples = [f"{pair.replace(' ', '')} {SYMBOLS[0x80 + n]}" for n in range(3) for pair in pairs]
    path = write(tmp_path, {LIST: list_file([*pairs, *triples])})
    assert len(pairs) + len(triples) > N_MERGES
    assert read_clip_vocabulary(path).vocab_size == 512 + N_MERGES + 2


@pytest.mark.parametrize(("start", "end"), [(START, END), ("<start_of_text>", "<end_of_text>")])
def test_ids_are_those_of_the_file_in_whatever_order(tmp_path, toy, start, end):
    pieces = [*PIECES[:-2], start, end]
    shuffled = random.Random(0).sample(pieces, len(pieces))
    vocabulary = {piece: i for i, piece in enumerate(shuffled)}
    read = read_clip_vocabulary(write(tmp_path, {"tokenizer.json": tokenizer_file(vocabulary)}))
    assert (read.start_of_text, read.end_of_text) == (vocabulary[start], vocabulary[end])
    assert [shuffled[i] for i in read.encode(CORPUS)] == [PIECES[i] for i in toy.encode(CORPUS)]
    assert read.encode(f"cat {end}") == [*read.encode("cat"), read.end_of_text]


def test_rows_start_and_end_in_text_and_are_filled_up_with_zeros():
    assert frame([5, 6], start_of_text=8, end_of_text=9, text_len=6).tolist() == [8, 5, 6, 9, 0, 0]
    assert frame([5, 6], start_of_text=8, end_of_text=9, text_len=4).tolist() == [8, 5, 6, 9]
    assert frame([], start_of_text=8, end_of_text=9, text_len=4).tolist() == [8, 9, 0, 0]
    assert frame([5, 6], start_of_text=8, end_of_text=9, text_len=6).dtype == np.int64


@pytest.mark.parametrize(
    ("text_len", "expected"), [(4, [8, 5, 6, 9]), (3, [8, 5, 9]), (2, [8, 9]), (1, [9])], ids=str
)
def test_long_captions_are_cut_and_end_in_end_of_text(text_len, expected):
    ids = [5, 6, 7]
    assert frame(ids, start_of_text=8, end_of_text=9, text_len=text_len).tolist() == expected
    assert ids == [5, 6, 7]


def test_a_batch_stacks_the_rows_of_its_captions(toy):
    captions = ["a cat", "", "a photo of the cat"]
    rows = [
        frame(
            toy.encode(caption),
            start_of_text=toy.start_of_text,
            end_of_text=toy.end_of_text,
            text_len=7,
        )
        for caption in captions
    ]
    batch = toy(captions, 7)
    assert batch.dtype == torch.int64
    torch.testing.assert_close(batch, torch.tensor(np.stack(rows)), rtol=0, atol=0)
    assert toy([], 7).shape == (0, 7)


def test_our_own_tokenizer_is_followed_by_start_and_end():
    tokenizer = Tokenizer([(BOUNDARY, "t"), ("h", "e")], "tokenizers")
    clip_tokenizer = own_clip_tokenizer(tokenizer)
    assert (
        clip_tokenizer.start_of_text,
        clip_tokenizer.end_of_text,
        clip_tokenizer.vocab_size,
    ) == (259, 260, 261)
    assert clip_tokenizer(["The", "\ud800"], 5).tolist() == [
        [259, 257, 258, 260, 0],
        [259, 256, 0xED, 0xA0, 260],
    ]


PACKED = gzip.compress(list_file(MERGE_LINES))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        pytest.param(b"", "it has no merges", id="empty"),
        pytest.param(b"a header\n", "it has no merges", id="header alone"),
        pytest.param(
            list_file(["t h", "th"]), "a merge joins two pieces, not `th`", id="one piece"
        ),
        pytest.param(
            list_file(["t h e"]), "a merge joins two pieces, not `t h e`", id="three pieces"
        ),
        pytest.param(
            list_file(["t h", "", "th e"]), "a merge joins two pieces, not ``", id="blank line"
        ),
        pytest.param(
            list_file(["t h", "th\x1b[2J e"]), "Token `th.*` out of vocabulary", id="unknown piece"
        ),
        pytest.param(list_file(["t h", "t h"]), "a piece that already exists", id="repeated"),
        pytest.param(
            list_file(["t h", "h e", "th e", "t he"]),
            "a piece that already exists",
            id="ambiguous",
        ),
        pytest.param(b"\xff\xfea\n", "'utf-8' codec can't decode", id="not UTF-8"),
        pytest.param(
            gzip.compress(b"\xff\n"), "'utf-8' codec can't decode", id="packed, not UTF-8"
        ),
        pytest.param(gzip.compress(bytes(MAX_BYTES + 1)), "larger than 32 MiB", id="bomb"),
    ],
)
def test_a_foreign_list_of_merges_is_named_with_a_reason(tmp_path, content, reason):
    with pytest.raises(
        DalleError, match=f"foreign.txt is not a CLIP vocabulary: .*{reason}"
    ) as caught:
        read_clip_vocabulary(write(tmp_path, {"foreign.txt": content}))
    assert caught.value.message.isprintable() and "`tokenizer.json`" in caught.value.hint


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(PACKED[:-20], id="cut"),
        pytest.param(PACKED[:1] + b"\x8b" + b"\x00" * 30, id="header"),
        pytest.param(PACKED[:60] + bytes(8) + PACKED[68:], id="body"),
        pytest.param(PACKED[:-8] + bytes(8), id="checksum"),
    ],
)
def test_a_damaged_archive_is_named(tmp_path, content):
    with pytest.raises(DalleError, match=rf"cannot read the CLIP vocabulary .*{PACKED_LIST}: ."):
        read_clip_vocabulary(write(tmp_path, {PACKED_LIST: content}))


@pytest.mark.parametrize("name", ["vocab.json", "tokenizer.json"])
@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b"null",
        b"[" * 100_000,
        b"\xff\xfe",
        b'{"a": 1',
        b'{"\\ud800": 0}',
        b'{"model": 3}',
    ],
)
def test_json_that_is_no_vocabulary_is_told(tmp_path, name, content):
    path = write(tmp_path, {name: content, "merges.txt": list_file(MERGE_LINES, "#version: 0.2")})
    with pytest.raises(DalleError, match=f"{name} is not a CLIP vocabulary: .") as caught:
        read_clip_vocabulary(path)
    assert caught.value.message.isprintable()


NO_START = {piece: i for i, piece in enumerate([*PIECES[:-2], END])}


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        pytest.param({"vocabulary": NO_START}, "no start and end of text", id="no start"),
        pytest.param({"vocabulary": {}}, "no start and end of text", id="no pieces"),
        pytest.param({"vocabulary": VOCABULARY | {END: "573"}}, "valid integer", id="text"),
        pytest.param({"vocabulary": VOCABULARY | {END: True}}, "valid integer", id="boolean"),
        pytest.param({"vocabulary": VOCABULARY | {END: 573.0}}, "valid integer", id="float"),
        pytest.param(
            {"vocabulary": VOCABULARY | {"\x1b" * 1000: None}}, "valid integer", id="hostile key"
        ),
        pytest.param({"vocabulary": VOCABULARY | {END: -1}}, "ids are not 0 to 573", id="negative"),
        pytest.param({"vocabulary": VOCABULARY | {END: 574}}, "ids are not 0 to 573", id="gap"),
        pytest.param(
            {"vocabulary": VOCABULARY | {END: 572}}, "ids are not 0 to 573", id="id twice"
        ),
        pytest.param({"vocabulary": VOCABULARY | {END: 10**30}}, "ids are not 0 to 573", id="huge"),
        pytest.param({"merges": []}, "it has no merges", id="no merges"),
        pytest.param({"merges": ["t h", "t h"]}, "a merge occurs twice", id="merge twice"),
        pytest.param({"merges": ["z z"]}, "Token `zz` out of vocabulary", id="unknown product"),
        pytest.param({"merges": ["th"]}, "joins two pieces", id="one piece"),
        pytest.param({"merges": [["t", "h", "e"]]}, "merges", id="three pieces"),
        pytest.param({"merges": [3]}, "merges", id="number for a merge"),
        pytest.param({"merges": None}, "merges", id="null for merges"),
        pytest.param({"end_of_word_suffix": None}, "end_of_word_suffix", id="GPT-2's model"),
        pytest.param({"end_of_word_suffix": ""}, "end_of_word_suffix", id="empty suffix"),
        pytest.param({"vocab": [["a", -1.0]]}, "vocab", id="unigrams"),
    ],
)
def test_a_foreign_model_is_told_with_a_reason(tmp_path, changes, reason):
    path = write(tmp_path, {"tokenizer.json": tokenizer_file(**changes)})
    with pytest.raises(
        DalleError, match=f"tokenizer.json is not a CLIP vocabulary: .*{reason}"
    ) as caught:
        read_clip_vocabulary(path)
    assert caught.value.message.isprintable() and len(caught.value.message) < 500


def test_what_cannot_be_read_is_named(tmp_path):
    path = write(tmp_path, {"vocab.json": json.dumps(VOCABULARY).encode()})
    for unreadable, name in ((path, "merges.txt"), (tmp_path / "list.txt", "list.txt")):
        with pytest.raises(
            DalleError, match=f"cannot read the CLIP vocabulary .*{name}: No such file"
        ):
            read_clip_vocabulary(unreadable)
    with pytest.raises(DalleError, match=r"cannot read the CLIP vocabulary .*: Is a directory"):
        read_clip_vocabulary(tmp_path)
    write(tmp_path, {"merges.txt": b"t h e"})
    with pytest.raises(DalleError, match=r"merges.txt is not a CLIP vocabulary"):
        read_clip_vocabulary(path)


@pytest.fixture(scope="module")
def public_vocabulary():
    """OpenAI's list of merges: no part of this package, but of two that may be installed."""
    candidates = (
        [Path(os.environ["DALLE_CLIP_VOCABULARY"])] if "DALLE_CLIP_VOCABULARY" in os.environ else []
    )
    for package, place in (("open_clip", PACKED_LIST), ("dalle_pytorch", f"data/{LIST}")):
        spec = importlib.util.find_spec(package)
        candidates += [Path(spec.origin).parent / place] if spec and spec.origin else []
    return next((path for path in candidates if path.is_file()), None) or pytest.skip(
        "CLIP's vocabulary is not here"
    )


@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        ("a photo of a cat", [320, 1125, 539, 320, 2368]),
        ("a diagram", [320, 22697]),
        ("Hello,  World!", [3306, 267, 1002, 256]),
        ("an armchair in the shape of an avocado", [550, 45757, 530, 518, 6448, 539, 550, 14135]),
        ("it's 2021", [585, 568, 273, 271, 273, 272]),
    ],
)
def test_public_vocabulary_gives_the_known_tokens_of_clip(public_vocabulary, caption, expected):
    tokens = [49406, *expected, 49407]
    tokenizer = read_clip_vocabulary(public_vocabulary)
    assert tokenizer.vocab_size == 49408
    assert tokenizer([caption], 77).tolist() == [tokens + [0] * (77 - len(tokens))]


def shared_captions():
    """All captions under shared/, whole and line by line; broken shards and bytes included."""
    texts = [path.read_bytes() for path in sorted(SHARED_DATA.rglob("*.txt"))]
    for path in sorted(SHARED_DATA.rglob("*.tar")):
        try:
            with tarfile.open(path) as shard:
                texts += [
                    shard.extractfile(member).read()
                    for member in shard
                    if member.name.endswith(".txt")
                ]
        except tarfile.ReadError:
            continue
    decoded = [text.decode(errors="replace") for text in texts]
    return sorted({*decoded, *(line for text in decoded for line in text.splitlines())})


@pytest.mark.skipif(not SHARED_DATA.is_dir(), reason="the shared data sets are not here")
def test_public_vocabulary_gives_the_ids_of_transformers_on_shared_captions(public_vocabulary):
    transformers = pytest.importorskip("transformers")
    opener = gzip.open if public_vocabulary.suffix == ".gz" else open
    with opener(public_vocabulary, "rt", encoding="utf-8") as file:
        merges = [tuple(line.split()) for line in file.read().split("\n")[1 : 1 + N_MERGES]]
    pieces = [
        *SYMBOLS.values(),
        *(s + "</w>" for s in SYMBOLS.values()),
        *map("".join, merges),
        START,
        END,
    ]
    reference = transformers.CLIPTokenizer({piece: i for i, piece in enumerate(pieces)}, merges)
    tokenizer = read_clip_vocabulary(public_vocabulary)
    captions = shared_captions()
    assert len(captions) > 1000
    assert [
        c for c in captions if [49406, *tokenizer.encode(c), 49407] != reference(c)["input_ids"]
    ] == []


def test_released_vocabulary_has_the_published_sizes() -> None:
    """Spelt out: the other tests go by the constant."""
    assert 512 + N_MERGES + 2 == 49_408
