"""`data encode`, `rerank` and `reconstruct` in several processes: the files and answers of one."""

import json
import os
import signal
import sqlite3
import subprocess
import time
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path

import pytest
from processes import LIMIT, children_of, command, run

from dalle_cli.storage.run_dir import ENCODING

pytestmark = pytest.mark.distributed

EXACT = ["--device", "cpu", "--precision", "fp32"]
N_PAIRS = 23  # with batches of 4, the last is smaller, and three processes have unequal shares


@pytest.fixture
def data(make_pairs: Callable, tmp_path: Path) -> Path:
    """Captioned pictures, one of which can't be read, one that is there twice."""
    folder = make_pairs(tmp_path / "data", N_PAIRS)
    (folder / "005.png").write_bytes(b"no picture")
    (folder / "011.png").write_bytes((folder / "012.png").read_bytes())
    return folder


@pytest.mark.parametrize("kind", ["dvae", "clip"])
@pytest.mark.parametrize("n_processes", [2, 3])
def test_shards_do_not_depend_on_the_number_of_processes(
    n_processes: int,
    kind: str,
    data: Path,
    request: pytest.FixtureRequest,
    tmp_path: Path,
    tree: Callable,
) -> None:
    model = request.getfixturevalue(f"{kind}_run")
    words = ["data", "encode", data, f"--{kind}", model, "--copies", 2, "--batch-size", 4, *EXACT]
    for name, several in (("one", []), ("several", ["--gpus", n_processes])):
        ended = run(*words, "--out", tmp_path / name, *several)
        assert ended.returncode == 0, ended.stderr
        assert ended.stdout == f"{tmp_path / name}\n"
        assert ended.stderr.count("sample 23/23") == 1
        assert ended.stderr.count("skipped 005: ") == 1
    assert tree(tmp_path / "several") == tree(tmp_path / "one")


@pytest.mark.parametrize("dying", [0, 1])
def test_encoding_goes_on_after_either_process_died(
    dying: int, make_pairs: Callable, dvae_run: Path, tmp_path: Path, tree: Callable
) -> None:
    data = make_pairs(tmp_path / "data", 300)
    words = ["data", "encode", data, "--dvae", dvae_run, "--copies", 20, *EXACT]
    out = tmp_path / "tokens"
    with subprocess.Popen(
        command(*words, "--out", out, "--gpus", 2), stderr=subprocess.PIPE, text=True
    ) as process:
        deadline = time.monotonic() + LIMIT
        while not (out / "job.json").is_file():
            assert time.monotonic() < deadline and process.poll() is None
            time.sleep(0.01)
        os.kill(children_of(process.pid)[dying], signal.SIGKILL)
        _, told = process.communicate(timeout=LIMIT)
    assert process.returncode == 137 and f"process {dying} of 2 was ended by SIGKILL" in told
    assert not (out / ENCODING).exists()
    for folder, several in ((out, ["--gpus", 2]), (tmp_path / "undisturbed", [])):
        ended = run(*words, "--out", folder, *several)
        assert ended.returncode == 0, ended.stderr
    assert tree(out) == tree(tmp_path / "undisturbed")


def test_sample_that_has_changed_is_told_once(data: Path, dvae_run: Path, tmp_path: Path) -> None:
    words = ["data", "encode", data, "--dvae", dvae_run, "--out", tmp_path / "tokens", *EXACT]
    assert run(*words).returncode == 0
    content = bytearray((data / "020.png").read_bytes())
    content[-20] ^= 1  # of the same size, so that only its content tells
    (data / "020.png").write_bytes(content)
    ended = run(*words, "--gpus", 2)
    assert ended.returncode == 2 and ended.stderr.count("error:") == 1, ended.stderr
    assert "1 have changed since, such as 020" in ended.stderr


@pytest.mark.parametrize("caption", [["a red circle"], []], ids=["one caption", "own captions"])
def test_pictures_are_ranked_as_by_one_process(
    caption: list[str],
    data: Path,
    clip_run: Path,
    tmp_path: Path,
    tree: Callable,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (data / "005.png").unlink()
    words = ["rerank", data, *caption, "--clip", clip_run, "--batch-size", 4, "--json", *EXACT]
    found = []
    for count in (1, 2, 3):
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / f"cache {count}"))
        ended = run(*words, "--out", tmp_path / str(count), "--gpus", count)
        assert ended.returncode == 0, ended.stderr
        assert ended.stderr.count("picture 22/22") == 1
        found.append(json.loads(ended.stdout)["scores"])
    assert found[1] == found[0] and found[2] == found[0]
    assert tree(tmp_path / "2") == tree(tmp_path / "3") == tree(tmp_path / "1")


def test_unreadable_picture_is_told_once_and_the_others_are_ranked(
    data: Path, clip_run: Path, tmp_path: Path
) -> None:
    words = ["rerank", data, "a ring", "--clip", clip_run, "--out", tmp_path / "best", *EXACT]
    ended = run(*words, "--gpus", 2)
    assert ended.returncode == 1 and ended.stderr.count("error:") == 1, ended.stderr
    assert "1 of 23 pictures could not be read; the others are ranked" in ended.stderr
    assert (tmp_path / "best" / "scores.csv").is_file()


def test_ranking_embeds_nothing_again_that_a_process_had_embedded_before_another_died(
    make_pairs: Callable, clip_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    cache = tmp_path / "cache" / "dalle" / "embeddings.sqlite"
    words = ["rerank", make_pairs(tmp_path / "data", 400), "a ring", "--clip", clip_run]
    words += ["--batch-size", 1, "--json", *EXACT, "--gpus", 2]
    with subprocess.Popen(
        command(*words), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        deadline = time.monotonic() + LIMIT
        while not cache.is_file() or not n_cached(cache):
            assert time.monotonic() < deadline and process.poll() is None
            time.sleep(0.01)
        os.kill(children_of(process.pid)[1], signal.SIGKILL)
        out, told = process.communicate(timeout=LIMIT)
    assert process.returncode == 137 and "process 1 of 2 was ended by SIGKILL" in told and not out
    ended = run(*words)
    assert ended.returncode == 0, ended.stderr
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "other cache"))
    alone = run(*words[:-2])
    assert ended.stdout == alone.stdout


def n_cached(cache: Path) -> int:
    with closing(sqlite3.connect(cache)) as connection, suppress(sqlite3.OperationalError):
        return connection.execute("SELECT count(*) FROM embeddings").fetchone()[0]
    return 0  # there is no table yet


def test_pictures_are_reconstructed_as_by_one_process(
    data: Path, dvae_run: Path, tmp_path: Path, tree: Callable
) -> None:
    found = []
    for count in (1, 2, 3):
        out = tmp_path / str(count)
        ended = run("reconstruct", dvae_run, data, "--out", out, "--json", *EXACT, "--gpus", count)
        assert ended.returncode == 0, ended.stderr
        assert ended.stderr.count("picture 23/23") == 1
        assert ended.stderr.count("005.png: ") == 1
        found.append(json.loads(ended.stdout.replace(str(out), "OUT")))
    assert len(found[0]["pictures"]) == 22
    assert found[1] == found[0] and found[2] == found[0]
    assert tree(tmp_path / "2") == tree(tmp_path / "3") == tree(tmp_path / "1")


def test_reconstruction_that_a_process_does_not_survive_leaves_nothing(
    make_pairs: Callable, dvae_run: Path, tmp_path: Path
) -> None:
    words = ["reconstruct", dvae_run, make_pairs(tmp_path / "data", 400), *EXACT]
    words += ["--out", tmp_path / "compared", "--gpus", 2]
    with subprocess.Popen(command(*words), stderr=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + LIMIT
        while not list(tmp_path.glob(".compared*/*.png")):
            assert time.monotonic() < deadline and process.poll() is None
            time.sleep(0.01)
        os.kill(children_of(process.pid)[1], signal.SIGKILL)
        _, told = process.communicate(timeout=LIMIT)
    assert process.returncode == 137 and "process 1 of 2 was ended by SIGKILL" in told
    assert not (tmp_path / "compared").exists()
    ended = run(*words)
    assert ended.returncode == 0, ended.stderr


@pytest.mark.parametrize(
    "words",
    [
        ["rerank", "-", "a ring", "--clip", "CLIP"],
        ["rerank", "absent", "a ring", "--clip", "CLIP"],
        ["reconstruct", "DVAE", "absent", "--out", "OUT"],
        ["data", "encode", "absent", "--dvae", "DVAE", "--out", "OUT"],
    ],
    ids=["standard input", "no pictures", "nothing to reconstruct", "no data"],
)
def test_wrong_usage_is_told_once(
    words: list[str], clip_run: Path, dvae_run: Path, tmp_path: Path
) -> None:
    places = {"CLIP": clip_run, "DVAE": dvae_run, "OUT": tmp_path / "out"}
    ended = run(*[places.get(word, word) for word in words], "--gpus", 2)
    assert ended.returncode == 2 and not (tmp_path / "out").exists()
    assert ended.stderr.lower().count("error") == 1, ended.stderr
