"""Sources: every form on disk gives the same samples, pairs never cross, and what is left out is told."""

import csv
import hashlib
import io
import json
import os
import pickle
import random
import tarfile
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dalle_cli.data.images import BadSample, decode_image
from dalle_cli.data.sources import Sample, Source, open_source, validation_split
from dalle_cli.errors import DalleError
from dalle_cli.untrusted import printable

BAD = Path(__file__).parent / "bad"
EMOJI = Path(__file__).parents[2] / ".." / "shared" / "data" / "emoji-tiny"


def write_files(folder: Path, files: dict[str, bytes]) -> str:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return str(folder)


def write_tar(path: Path, members: list[tuple[str, bytes]]) -> str:
    with tarfile.open(path, "w") as tar:
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return str(path)


def pairs(*keys: str) -> dict[str, bytes]:
    """Files of a sample per key; sources do not decode, so any bytes do for a picture."""
    return {
        name: content
        for key in keys
        for name, content in [(f"{key}.jpg", f"picture {key}".encode()), (f"{key}.txt", f"caption {key}\n".encode())]
    }


def samples(source: Source) -> list[Sample]:
    return [source.read(index) for index in range(len(source))]


def keys(source: Source) -> list[str]:
    return [source.key(index) for index in range(len(source))]


def problems(source: Source) -> dict[str, str]:
    """Reasons by the place within the source."""
    return {where.removeprefix(source.name)[1:]: reason for where, reason in source.problems}


def fault(source: Source, index: int) -> str:
    """Why a sample cannot be read and decoded; "" if it can."""
    try:
        decode_image(source.read(index).image)
    except BadSample as error:
        return error.reason
    return ""


def test_folder_of_odd_files_gives_what_is_usable_and_tells_the_rest() -> None:
    source = open_source(str(BAD / "pairs"), captions_required=True)
    faults = {source.key(index): fault(source, index) for index in range(len(source))}
    assert {key: reason for key, reason in faults.items() if reason} == {
        "caption-blank-lines": "empty caption",
        "caption-empty": "empty caption",
        "caption-invalid-utf8": "caption is not UTF-8",
        "caption-utf16": "caption is not UTF-8",
        "html-error-page": "not a JPEG, PNG, WebP or GIF picture",
        "jpeg-truncated": "damaged or incomplete picture",
        "png-1x1": "picture too small: under 16 pixels on its short side",
        "png-4000x8": "picture too small: under 16 pixels on its short side",
        "png-corrupt-data": "damaged or incomplete picture",
        "png-zero-byte": "empty picture file",
        "text-named-jpg": "not a JPEG, PNG, WebP or GIF picture",
    }
    assert {"dots.in.the.name", "subfolder/nested", "uppercase-extension", "two-images-one-caption"} < faults.keys()
    assert not {".hidden", "notes", "caption-missing", "caption-without-image"} & faults.keys()
    assert problems(source) == {
        "caption-missing.jpg": "picture without caption",
        "caption-without-image.txt": "caption without picture",
        "two-images-one-caption.png": "another picture of this name is used",
    }


CUT = "cut short or damaged after {} members, the rest is lost"
DUPLICATE = "duplicate: the first file of this name is used"


@pytest.mark.parametrize(
    ("name", "good", "bad", "expected_problems"),
    [
        ("truncated", ["000000", "000001", "000002", "000003", "000004"], [], {"": CUT.format(10)}),
        (
            "missing-members",
            ["000000", "000003"],
            [],
            {"000001.jpg": "picture without caption", "000002.txt": "caption without picture"},
        ),
        (
            "interleaved-and-duplicate-keys",
            ["000000", "000001", "000002"],
            [],
            {"000002.jpg": DUPLICATE, "000002.txt": DUPLICATE},
        ),
        ("bad-image-inside", ["000000", "000004"], ["000001", "000002", "000003"], {}),
        ("extra-members", ["000000", "sub/dir/000001"], [], {}),
        (
            "path-traversal",
            ["000000", "../escaped"],
            [],
            {"link.jpg": "not a regular file", "link.txt": "caption without picture"},
        ),
    ],
)
def test_shard_gives_its_whole_samples_and_tells_the_rest(
    name: str, good: list[str], bad: list[str], expected_problems: dict[str, str]
) -> None:
    source = open_source(str(BAD / "shards" / f"{name}.tar"), captions_required=True)
    faults = {source.key(index): fault(source, index) for index in range(len(source))}
    assert [key for key, reason in faults.items() if not reason] == good
    assert [key for key, reason in faults.items() if reason] == bad
    assert problems(source) == expected_problems


@pytest.mark.parametrize(
    ("name", "reason"),
    [("zero-byte", "empty file"), ("not-a-tar", "not a tar file, or a compressed one"), ("empty", "no members")],
)
def test_shard_without_samples_is_an_error_alone_and_a_problem_among_others(name: str, reason: str) -> None:
    with pytest.raises(DalleError, match="no captioned pictures") as caught:
        open_source(str(BAD / "shards" / f"{name}.tar"), captions_required=True)
    assert reason in caught.value.hint
    assert problems(open_source(str(BAD / "shards"), captions_required=True))[f"{name}.tar"] == reason


def test_cut_shard_gives_exactly_the_pairs_before_the_cut(tmp_path: Path) -> None:
    members = [(name, content * 60) for name, content in pairs("a", "b", "c").items()]
    whole = Path(write_tar(tmp_path / "whole.tar", members)).read_bytes()
    with tarfile.open(tmp_path / "whole.tar") as tar:
        ends = {member.name: member.offset_data + member.size for member in tar}
    for length in range(512, max(ends.values()) + 512, 128):
        (tmp_path / "cut.tar").write_bytes(whole[:length])
        expected = [key for key in "abc" if max(ends[f"{key}.jpg"], ends[f"{key}.txt"]) <= length]
        if expected:
            source = open_source(str(tmp_path / "cut.tar"), captions_required=True)
            assert [sample.image for sample in samples(source)] == [f"picture {key}".encode() * 60 for key in expected]
            assert "cut short" in problems(source)[""]
        else:
            with pytest.raises(DalleError, match="no captioned pictures"):
                open_source(str(tmp_path / "cut.tar"), captions_required=True)


@pytest.mark.parametrize("tar_format", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
@pytest.mark.parametrize("seed", range(5))
def test_shuffled_shard_pairs_as_brute_force_does(tmp_path: Path, seed: int, tar_format: int) -> None:
    rng = random.Random(seed)
    stems = ["a", "b.c", "d/a", "é" * 80, "long" * 60, "e e", "f", "g"]
    names = [stem + suffix for stem in stems for suffix in (".jpg", ".txt", ".json", ".parquet") if rng.random() < 0.8]
    rng.shuffle(names)
    with tarfile.open(tmp_path / "shuffled.tar", "w", format=tar_format) as tar:
        for name in names:
            member = tarfile.TarInfo(name)
            member.size = rng.randrange(1, 2000)
            tar.addfile(member, io.BytesIO(f"{name} ".encode().ljust(member.size, b"x")[: member.size]))
    with tarfile.open(tmp_path / "shuffled.tar") as tar:
        contents = {member.name: tar.extractfile(member).read() for member in tar.getmembers()}
    expected = {s: contents[f"{s}.jpg"] for s in stems if f"{s}.jpg" in contents and f"{s}.txt" in contents}
    captions = {s: contents[f"{s}.txt"].decode(errors="ignore").strip() for s in expected}
    source = open_source(str(tmp_path / "shuffled.tar"), captions_required=False)
    found = {sample.key: sample for sample in samples(source)}
    assert {s: found[s].image for s in expected} == expected
    assert {s: "".join(found[s].captions) for s in expected} == captions
    assert found.keys() == {s for s in stems if f"{s}.jpg" in contents}


def test_folder_shard_and_manifests_give_the_same_samples(tmp_path: Path) -> None:
    files = pairs("000", "001", "dots.in.it", "sub/000")
    folder = write_files(tmp_path / "folder", files)
    shard = write_tar(tmp_path / "all.tar", [(f"./{name}", content) for name, content in files.items()])
    rows = [(name, files[name[:-3] + "txt"].decode().strip()) for name in files if name.endswith(".jpg")]
    with open(tmp_path / "folder" / "rows.csv", "w", newline="") as file:
        csv.writer(file).writerows([("caption", "image"), *((caption, image) for image, caption in rows)])
    lines = [json.dumps({"image": image, "captions": [caption]}) for image, caption in rows]
    (tmp_path / "folder" / "rows.jsonl").write_text("\n".join(lines))
    sources = [open_source(spec, True) for spec in (folder, shard, f"{folder}/rows.csv", f"{folder}/rows.jsonl")]
    expected = [Sample(key, files[f"{key}.jpg"], [f"caption {key}"]) for key in ("000", "001", "dots.in.it", "sub/000")]
    assert [samples(source) for source in sources] == [expected] * 4
    assert [source.problems for source in sources] == [[]] * 4
    assert sources[0].fingerprint() == sources[1].fingerprint()
    assert len({validation_split(source, 0.3)[1].tobytes() for source in sources}) == 1


@pytest.mark.skipif(not EMOJI.is_dir(), reason="the shared data are not beside this checkout")
def test_emoji_folder_and_shard_give_the_same_samples() -> None:
    folder = open_source(str(EMOJI / "pairs"), captions_required=True)
    shard = open_source(str(EMOJI / "emoji-tiny-{000000..000000}.tar"), captions_required=True)
    assert len(folder) == 64
    assert samples(folder) == samples(shard)


def test_pictures_pair_within_their_own_folder_only(tmp_path: Path) -> None:
    files = {"one/a.jpg": b"1", "two/a.jpg": b"2", "two/a.txt": b"second", "three/a.txt": b"third"}
    source = open_source(write_files(tmp_path, files), captions_required=True)
    assert samples(source) == [Sample("two/a", b"2", ["second"])]
    assert problems(source) == {"one/a.jpg": "picture without caption", "three/a.txt": "caption without picture"}


def test_first_suffix_wins_when_pictures_share_a_name(tmp_path: Path) -> None:
    names = ["a.GIF", "a.webp", "a.png", "a.jpeg", "a.JPG"]
    folder = write_files(tmp_path, {"a.txt": b"text"} | {name: name.encode() for name in names})
    for used, *left in (names[: i + 1][::-1] for i in range(len(names) - 1, -1, -1)):
        source = open_source(folder, captions_required=True)
        assert samples(source) == [Sample("a", used.encode(), ["text"])]
        assert problems(source) == dict.fromkeys(left, "another picture of this name is used")
        (tmp_path / used).unlink()


def test_first_of_equal_names_is_used_whole(tmp_path: Path) -> None:
    members = [
        ("a.jpg", b"1"),
        ("b.jpg", b"2"),
        ("a.txt", b"first"),
        ("a.JPG", b"3"),
        ("a.txt", b"later"),
        ("b.txt", b"b"),
    ]
    source = open_source(write_tar(tmp_path / "a.tar", members), captions_required=True)
    assert samples(source) == [Sample("a", b"1", ["first"]), Sample("b", b"2", ["b"])]
    assert problems(source) == {"a.JPG": DUPLICATE, "a.txt": DUPLICATE}


def test_hidden_and_unrelated_files_are_ignored(tmp_path: Path) -> None:
    ignored = {".b.jpg": b"", ".cache/c.jpg": b"", "notes.csv": b"", "__readme__.txt": b"", "a.json": b""}
    folder = open_source(write_files(tmp_path / "folder", pairs("a") | ignored), captions_required=True)
    shard = open_source(write_tar(tmp_path / "a.tar", [*pairs("a").items(), ("._a.jpg", b"")]), captions_required=True)
    assert keys(folder) == keys(shard) == ["a"]
    assert folder.problems == shard.problems == []


def test_what_is_no_plain_file_is_told_and_not_opened(tmp_path: Path) -> None:
    folder = write_files(tmp_path / "folder", pairs("a"))
    os.mkfifo(tmp_path / "folder" / "pipe.jpg")
    (tmp_path / "folder" / "dangling.png").symlink_to("nowhere.png")
    (tmp_path / "folder" / "circle").symlink_to(".")
    (tmp_path / "folder" / "linked.jpg").symlink_to("a.jpg")
    source = open_source(folder, captions_required=False)
    assert keys(source) == ["a", "linked"]
    assert problems(source) == {
        "circle": "linked folder, not entered",
        "dangling.png": "not a regular file",
        "pipe.jpg": "not a regular file",
    }


def test_unsupported_formats_and_stray_shards_are_told(tmp_path: Path) -> None:
    extra = {"b.tiff": b"", "b.txt": b"text", "old.tar": b""}
    source = open_source(write_files(tmp_path, pairs("a") | extra), captions_required=True)
    assert keys(source) == ["a"]
    assert problems(source) == {
        "b.tiff": "unsupported picture format",
        "old.tar": "tar file beside loose pictures, ignored",
    }


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"\xef\xbb\xbfa white arrow\r\nan arrow\r\n", ["a white arrow", "an arrow"]),
        (b"one\rtwo\n\n  \t\nthree", ["one", "two", "three"]),
        (b"a white\x00 arrow\x07 pointing\x1b[31m up\x7f\n", ["a white arrow pointing[31m up"]),
        ("tab\there \u202eoverride\u202c \u2066isolate\u2069 \x85".encode(), ["tab\there override isolate"]),
        (
            "\u2b06\ufe0f\U0001f469\U0001f3fd\u200d\U0001f680".encode(),
            ["\u2b06\ufe0f\U0001f469\U0001f3fd\u200d\U0001f680"],
        ),
        (b"word " * 5000, [("word " * 5000).strip()]),
        (b"caption\n" * 1000, ["caption"] * 1000),
    ],
)
def test_caption_file_gives_one_clean_caption_per_line(tmp_path: Path, content: bytes, expected: list[str]) -> None:
    source = open_source(write_files(tmp_path, {"a.jpg": b"", "a.txt": content}), captions_required=True)
    assert source.captions(0) == source.read(0).captions == expected


@pytest.mark.parametrize("content", [b"", b" \n\t\r\n", b"\x00\n", "\ufeff".encode()])
def test_caption_without_text_is_a_fault_only_where_captions_are_needed(tmp_path: Path, content: bytes) -> None:
    folder = write_files(tmp_path, {"a.jpg": b"", "a.txt": content})
    assert open_source(folder, captions_required=False).captions(0) == []
    with pytest.raises(BadSample, match="empty caption"):
        open_source(folder, captions_required=True).read(0)


def test_missing_captions_are_accepted_where_they_are_not_needed(tmp_path: Path) -> None:
    folder = open_source(write_files(tmp_path / "folder", {"a.jpg": b"1"}), captions_required=False)
    shard = open_source(write_tar(tmp_path / "a.tar", [("a.jpg", b"1")]), captions_required=False)
    manifest = open_source(write_files(tmp_path / "m", {"m.csv": b"image\na.jpg", "a.jpg": b"1"}) + "/m.csv", False)
    assert [samples(source) for source in (folder, shard, manifest)] == [[Sample("a", b"1", [])]] * 3
    assert folder.problems == shard.problems == manifest.problems == []


def test_vanished_files_are_errors_of_the_disk_not_of_the_sample(tmp_path: Path) -> None:
    folder = open_source(write_files(tmp_path / "folder", pairs("a")), captions_required=True)
    shard = open_source(write_tar(tmp_path / "a.tar", list(pairs("a").items())), captions_required=True)
    (tmp_path / "folder" / "a.jpg").unlink()
    os.truncate(tmp_path / "a.tar", 515)
    with pytest.raises(FileNotFoundError):
        folder.read(0)
    with pytest.raises(OSError, match="shorter"):
        shard.read(0)


@pytest.mark.parametrize("spec", ["s-{08..11}.tar", "s-*.tar", "s-{0..1}{0..9}.tar", ""])
def test_ranges_globs_and_folders_open_all_shards_in_order(tmp_path: Path, spec: str) -> None:
    numbers = [f"{number:02d}" for number in (range(20) if "}{" in spec else range(8, 12))]
    for number in reversed(numbers):
        write_tar(tmp_path / f"s-{number}.tar", list(pairs(number).items()))
    (tmp_path / "s-notes.md").write_text("not a shard")
    assert keys(open_source(str(tmp_path / spec), captions_required=True)) == numbers


def test_equal_keys_of_two_shards_stay_two_samples(tmp_path: Path) -> None:
    for number in range(2):
        write_tar(tmp_path / f"{number}.tar", [("a.jpg", b"%d" % number), ("a.txt", b"caption %d" % number)])
    source = open_source(str(tmp_path), captions_required=True)
    assert samples(source) == [Sample("a", b"0", ["caption 0"]), Sample("a", b"1", ["caption 1"])]


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("a-{0..999999999}.tar", "shard is missing: .*a-1.tar"),
        ("a-{1..0}.tar", "empty range"),
        ("b-*.tar", "no tar file matches"),
        ("nowhere", "no such file or folder"),
        ("\x1b31m", "no such file or folder: .*\ufffd31m"),
        ("a.md", "not a data set"),
        ("empty", "no captioned pictures"),
    ],
)
def test_specs_that_lead_nowhere_are_errors_with_a_hint(tmp_path: Path, spec: str, message: str) -> None:
    write_tar(tmp_path / "a-0.tar", list(pairs("a").items()))
    (tmp_path / "a.md").touch()
    (tmp_path / "empty").mkdir()
    with pytest.raises(DalleError, match=message) as caught:
        open_source(str(tmp_path / spec), captions_required=True)
    assert caught.value.hint


@pytest.mark.parametrize(
    "spec", ["pipe:touch owned", "https://example.com/a.tar", "file:///a.tar", "s3://b/{0..9}.tar"]
)
def test_commands_and_addresses_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spec: str) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DalleError, match="local files"):
        open_source(spec, captions_required=True)
    assert not list(tmp_path.iterdir())


def test_empty_spec_does_not_open_the_current_folder() -> None:
    with pytest.raises(DalleError, match="no such file or folder"):
        open_source("", captions_required=True)


def test_hint_says_where_the_missing_captions_belong(tmp_path: Path) -> None:
    folder = write_files(tmp_path / "birds", {f"{number:03d}.jpg": b"" for number in range(12)})
    with pytest.raises(DalleError, match="no captioned pictures") as caught:
        open_source(folder, captions_required=True)
    expected = f"found 12 pictures but no captions: put {folder}/000.txt beside {folder}/000.jpg"
    assert caught.value.hint == expected


def test_hint_counts_what_was_found_and_names_the_layouts(tmp_path: Path) -> None:
    folder = write_files(tmp_path, {"a.jpg": b"", "b.txt": b"", "c.txt": b""})
    with pytest.raises(DalleError) as caught:
        open_source(folder, captions_required=True)
    assert f"2 x caption without picture ({folder}/b.txt)" in caught.value.hint
    assert f"1 x picture without caption ({folder}/a.jpg)" in caught.value.hint
    assert "manifest" in caught.value.hint


def test_rows_with_the_same_picture_add_captions(tmp_path: Path) -> None:
    write_files(tmp_path, {"a.jpg": b"1", "b.jpg": b"2"})
    rows = 'image,caption,licence\r\na.jpg,"one, two",x\r\nb.jpg,other,x\r\n./a.jpg,"line\nbreak",x\r\n'
    (tmp_path / "rows.CSV").write_bytes(b"\xef\xbb\xbf" + rows.encode())
    source = open_source(str(tmp_path / "rows.CSV"), captions_required=True)
    assert samples(source) == [Sample("a", b"1", ["one, two", "line break"]), Sample("b", b"2", ["other"])]


def test_faulty_rows_are_told_by_their_line(tmp_path: Path) -> None:
    write_files(tmp_path, {"a.jpg": b"1", "b.jpg": b"2"})
    lines = [
        b'{"image": "a.jpg", "caption": "good", "size": 1}',
        b"",
        b"{not json",
        b'["a.jpg", "caption"]',
        b'{"caption": "no picture"}',
        b'{"image": "gone.jpg", "caption": "x"}',
        b'{"image": "b.jpg", "caption": "\xff"}',
        b'{"image": "b.jpg", "caption": "\\ud800"}',
        b'{"image": "b.jpg", "captions": [1]}',
        b'{"image": "b.jpg", "captions": ["  "]}',
        b"[" * 100_000,
    ]
    (tmp_path / "rows.jsonl").write_bytes(b"\n".join(lines))
    source = open_source(str(tmp_path / "rows.jsonl"), captions_required=True)
    assert samples(source) == [Sample("a", b"1", ["good"])]
    assert problems(source) == {
        "3": "not a JSON object",
        "4": "not a JSON object",
        "5": "row without `image`",
        "6": "no such file: gone.jpg",
        "7": "caption is not UTF-8",
        "8": "caption is not UTF-8",
        "9": "`caption` must be text, `captions` a list of texts",
        "10": "picture without caption",
        "11": "not a JSON object",
    }


def test_manifest_may_name_pictures_anywhere(tmp_path: Path) -> None:
    write_files(tmp_path, {"pictures/a.jpg": b"1", "pictures/b.jpg": b"2", "lists/none": b""})
    rows = f"image,caption\n../pictures/a.jpg,one\n{tmp_path}/pictures/b.jpg,two\n"
    (tmp_path / "lists" / "rows.csv").write_text(rows)
    source = open_source(str(tmp_path / "lists" / "rows.csv"), captions_required=True)
    assert [sample.image for sample in samples(source)] == [b"1", b"2"]
    assert keys(source) == ["../pictures/a", f"{tmp_path}/pictures/b"]


@pytest.mark.parametrize(
    ("content", "message", "hint"),
    [
        ("picture,text\na.jpg,x\n", "no column `image`", "found: picture, text"),
        ("image;caption\na.jpg;x\n", "no column `image`", "separated by commas"),
        ("image\na.jpg\n", "no column `caption`", "found: image"),
        ("", "no column `image`", "the first line"),
        ('image,caption\na.jpg,"never closed\n', "line 2: unexpected end", "quote"),
    ],
)
def test_csv_that_cannot_be_understood_stops(tmp_path: Path, content: str, message: str, hint: str) -> None:
    (tmp_path / "rows.csv").write_text(content)
    with pytest.raises(DalleError, match=message) as caught:
        open_source(str(tmp_path / "rows.csv"), captions_required=True)
    assert hint in caught.value.hint


@given(st.text())
def test_printable_text_holds_nothing_that_steers_a_terminal(text: str) -> None:
    shown = printable(text)
    shown.encode()
    assert len(shown) == len(text)
    assert not any(unicodedata.category(character) in ("Cc", "Cs") for character in shown if character != "\t")
    assert not any(unicodedata.bidirectional(c) in ("RLO", "LRO", "RLE", "LRE", "PDF", "RLI", "LRI") for c in shown)
    assert all(a == b or b == "\ufffd" for a, b in zip(text, shown, strict=True))


def test_file_names_reach_problems_and_messages_printable(tmp_path: Path) -> None:
    folder = write_files(tmp_path / "\x1b]0;owned\x07", {"\x1b[31mred\u202e.jpg": b"", "\udcff.txt": b""})
    with pytest.raises(DalleError) as caught:
        open_source(folder, captions_required=True)
    for text in (caught.value.message, caught.value.hint):
        assert printable(text) == text
    source = open_source(folder, captions_required=False)
    assert all(printable(where) == where for where, _ in source.problems)
    assert source.key(0) == "\x1b[31mred\u202e"


def every_form(tmp_path: Path, files: dict[str, bytes]) -> list[Source]:
    folder = write_files(tmp_path / "folder", files)
    rows = [f"{name},caption" for name in files if name.endswith(".jpg")]
    (tmp_path / "folder" / "rows.csv").write_text("\n".join(["image,caption", *rows]))
    shard = write_tar(tmp_path / "all.tar", list(files.items()))
    return [open_source(spec, captions_required=True) for spec in (folder, shard, f"{folder}/rows.csv")]


def test_sources_survive_pickling(tmp_path: Path) -> None:
    for source in every_form(tmp_path, pairs("a", "b")):
        copy = pickle.loads(pickle.dumps(source))
        assert samples(copy) == samples(source)
        assert copy.fingerprint() == source.fingerprint()


def test_fingerprint_sees_keys_and_sizes_but_not_contents(tmp_path: Path) -> None:
    variants = {
        "same": {"a.jpg": b"12", "a.txt": b"text"},
        "contents": {"a.jpg": b"34", "a.txt": b"text"},
        "size": {"a.jpg": b"123", "a.txt": b"text"},
        "key": {"b.jpg": b"12", "b.txt": b"text"},
        "more": {"a.jpg": b"12", "a.txt": b"text", "b.jpg": b"12", "b.txt": b"text"},
    }
    prints = {name: [s.fingerprint() for s in every_form(tmp_path / name, files)] for name, files in variants.items()}
    assert prints["same"] == prints["contents"]
    for form in range(3):
        assert len({prints[name][form] for name in ("same", "size", "key", "more")}) == 4


def keyed_source(tmp_path: Path, n_samples: int) -> Source:
    return open_source(write_tar(tmp_path / "keyed.tar", list(pairs(*map(str, range(n_samples))).items())), True)


@pytest.mark.parametrize("share", [0.0, 1e-6, 0.05, 0.3, 0.999999, 1.0])
def test_split_holds_out_the_keys_whose_hash_is_below_the_share(tmp_path: Path, share: float) -> None:
    source = keyed_source(tmp_path, 200)
    fractions = [int(hashlib.sha256(key.encode()).hexdigest()[:16], 16) / 2**64 for key in keys(source)]
    below = {index for index, fraction in enumerate(fractions) if fraction < share}
    smallest, largest = int(np.argmin(fractions)), int(np.argmax(fractions))
    train, valid = validation_split(source, share)
    assert train.dtype == valid.dtype == np.int64
    assert set(valid.tolist()) == (below | {smallest}) - {largest}
    assert sorted([*train.tolist(), *valid.tolist()]) == list(range(200))


def test_samples_stay_on_their_side_when_data_grow(tmp_path: Path) -> None:
    small, large = keyed_source(tmp_path, 100), keyed_source(tmp_path, 300)
    held_out = [{source.key(i) for i in validation_split(source, 0.1)[1]} for source in (small, large)]
    assert held_out[0] == held_out[1] & set(keys(small))


def test_two_samples_are_split_and_one_is_refused(tmp_path: Path) -> None:
    train, valid = validation_split(keyed_source(tmp_path, 2), 0.05)
    assert len(train) == len(valid) == 1
    with pytest.raises(DalleError, match="too few"):
        validation_split(keyed_source(tmp_path, 1), 0.05)
