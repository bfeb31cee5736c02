"""Samples left out by their keys: every form, mixtures, tokens; lists that people write."""

import pickle
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from layouts import every_form, keys, pairs, samples, write_files, write_tar

from dalle_cli.data.sources import Source, open_dataset, open_datasets, validation_split
from dalle_cli.data.sources.exclusion import key_list, read_keys
from dalle_cli.errors import DalleError, UsageError

# names of files that are not UTF-8 have these for their odd bytes
ODD_BYTES = st.characters(min_codepoint=0xDC80, max_codepoint=0xDCFF, categories=["Cs"])
TEXT = st.text(st.characters(exclude_categories=["Cs"]) | ODD_BYTES, min_size=1)


def write_list(tmp_path: Path, *lines: str) -> Path:
    file = tmp_path / "excluded.txt"
    file.write_text("".join(f"{line}\n" for line in lines), "utf-8")
    return file


@settings(deadline=None)
@given(keys=st.lists(TEXT, unique=True))
def test_every_key_is_read_as_it_was_written(
    keys: list[str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    file = tmp_path_factory.mktemp("lists") / "keys.txt"
    file.write_text(key_list(keys), "utf-8", newline="")
    assert read_keys(file) == set(keys)


def test_usual_keys_stand_in_a_list_as_they_are() -> None:
    assert key_list(["birds/001", "ein Zaunkönig"]) == "birds/001\nein Zaunkönig\n"
    assert key_list(["a\nb", '"', " c"]) == '"a\\nb"\n"\\""\n" c"\n'


@pytest.mark.parametrize(
    "content",
    [
        b"birds/b\r\n\r\nc d\r\n",
        b"\xef\xbb\xbfbirds/b\nc d",
        "birds/b\nc d\n".encode("utf-16"),
        b'"birds/b"\n\n\n  \nc d\n',
    ],
)
def test_lists_are_read_as_editors_leave_them(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_bytes(content)
    assert read_keys(tmp_path / "list.txt") == {"birds/b", "c d"}


def test_a_name_that_begins_with_a_quotation_mark_is_no_json(tmp_path: Path) -> None:
    assert read_keys(write_list(tmp_path, '"', '"a" b', '"a')) == {'"', '"a" b', '"a'}


def test_samples_are_left_out_of_every_form(tmp_path: Path) -> None:
    files = pairs("a", "birds/b", "c", "d")
    for whole in every_form(tmp_path, files):
        exclude = write_list(tmp_path, "birds/b", "d")
        source = open_dataset(whole.name, captions_required=True, exclude=exclude)
        assert keys(source) == [key for key in keys(whole) if key not in ("birds/b", "d")]
        expected = [sample for sample in samples(whole) if sample.key not in ("birds/b", "d")]
        assert samples(source) == expected
        assert [source.captions(i) for i in range(2)] == [s.captions for s in expected]
        assert source.form == f"{whole.form}; 2 samples excluded"
        assert source.problems == whole.problems
        assert samples(pickle.loads(pickle.dumps(source))) == expected


def test_samples_of_one_key_are_all_left_out(tmp_path: Path) -> None:
    members = [item for key in ("a", "b") for item in pairs(key).items()]
    for name in ("one", "two"):
        write_tar(tmp_path / f"{name}.tar", members)
    exclude = write_list(tmp_path, "a")
    source = open_dataset(str(tmp_path), captions_required=True, exclude=exclude)
    assert keys(source) == ["b", "b"] and "2 samples excluded" in source.form


@pytest.fixture
def folder(tmp_path: Path) -> str:
    return write_files(tmp_path / "birds", pairs(*(f"{n:02d}" for n in range(30))))


def opened(folder: str, exclude: Path | None) -> Source:
    return open_dataset(folder, captions_required=True, exclude=exclude)


def test_the_others_stay_on_their_side_of_the_split(folder: str, tmp_path: Path) -> None:
    def held_out(source: Source) -> set[str]:
        return {source.key(int(index)) for index in validation_split(source, 0.3)[1]}

    whole = held_out(opened(folder, None))
    left_out = {min(whole), "00", "01"}
    source = opened(folder, write_list(tmp_path, *left_out))
    assert held_out(source) == whole - left_out


def test_fingerprint_sees_which_samples_are_left_out(folder: str, tmp_path: Path) -> None:
    whole = opened(folder, None).fingerprint()
    lists = [["00"], ["01"], ["00", "01"]]
    prints = [opened(folder, write_list(tmp_path, *some)).fingerprint() for some in lists]
    assert len({whole, *prints}) == 4
    assert opened(folder, write_list(tmp_path, "01", "00")).fingerprint() == prints[2]
    assert opened(folder, write_list(tmp_path, "no such")).fingerprint() == whole


def test_unknown_keys_are_noticed(folder: str, tmp_path: Path) -> None:
    source = opened(folder, write_list(tmp_path, "00", "40", "41"))
    assert source.problems == [("excluded.txt", "2 of 3 keys are of no sample, such as 40")]
    source = opened(folder, write_list(tmp_path, "00.jpg"))
    assert source.problems[0][1].endswith("such as 00.jpg; a key is a path without its suffix")


def test_key_of_one_source_of_a_mixture_is_known(folder: str, tmp_path: Path) -> None:
    other = write_files(tmp_path / "rings", pairs("x", "y"))
    exclude = write_list(tmp_path, "x", "03", "z")
    source = open_datasets([folder, f"{other}@0.3"], captions_required=True, exclude=exclude)
    assert len(source) == 30 and {"x", "03"}.isdisjoint(keys(source))
    assert source.problems == [("excluded.txt", "1 of 3 keys are of no sample, such as z")]
    counts = [stream.n_samples for stream in source.streams(np.arange(30))]
    assert counts == [29, 1]


def test_nothing_left_is_an_error(folder: str, tmp_path: Path) -> None:
    exclude = write_list(tmp_path, *(f"{n:02d}" for n in range(30)))
    with pytest.raises(DalleError, match=r"every sample of .*birds is excluded by"):
        opened(folder, exclude)


def test_list_that_is_not_there_is_wrong_usage(folder: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"cannot read .*none\.txt: No such file"):
        opened(folder, tmp_path / "none.txt")
    with pytest.raises(DalleError, match="cannot read"):
        opened(folder, tmp_path)
