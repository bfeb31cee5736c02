"""The embedding cache: exact, apart by model, safe with two writers, harmless when broken."""

import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from dalle_cli.scoring import embedding_cache
from dalle_cli.scoring.embedding_cache import QUERY_SIZE, EmbeddingCache, embedding_cache_file

N_ADDED = 20
WIDTH = 64  # of an embedding

ADD_ONE_BY_ONE = f"""
import sys
from pathlib import Path
import numpy as np
from dalle_cli.scoring.embedding_cache import EmbeddingCache
sys.stdin.readline()
cache = EmbeddingCache(Path(sys.argv[1]), "model", 4)
for number in range({N_ADDED}):
    cache.add({{f"{{sys.argv[2]}} {{number}}": np.full(4, number, np.float32)}})
print(cache.problem)
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "new" / "cache.sqlite"


def filled(file: Path, n: int = 3, model: str = "model") -> dict[str, np.ndarray]:
    """Add some embeddings, and give them."""
    rng = np.random.default_rng(0)
    embeddings = {f"{i:064x}": rng.normal(size=WIDTH).astype(np.float32) for i in range(n)}
    cache = EmbeddingCache(file, model, WIDTH)
    cache.add(embeddings)
    assert cache.problem is None
    return embeddings


def bits(embeddings: dict[str, np.ndarray]) -> dict[str, bytes]:
    assert all(vector.dtype == np.float32 and vector.ndim == 1 for vector in embeddings.values())
    return {picture: vector.tobytes() for picture, vector in embeddings.items()}


def test_embeddings_survive_bit_for_bit(file: Path) -> None:
    """Also the rarer floats: both zeros, subnormals, infinities, each kind of NaN."""
    patterns = np.random.default_rng(0).integers(0, 2**32, 1000, dtype=np.uint32)
    special = np.array(
        [0, 1 << 31, 1, 0x7F800000, 0xFF800000, 0x7FC00000, 0x7F800001, 0xFFFFFFFF], np.uint32
    )
    embeddings = {
        "random": patterns.view(np.float32),
        "special": np.tile(special, 125).view(np.float32),
    }
    EmbeddingCache(file, "model", 1000).add(embeddings)
    assert bits(EmbeddingCache(file, "model", 1000).find(embeddings)) == bits(embeddings)


def test_only_what_is_known_is_found_however_many_are_looked_for(file: Path) -> None:
    embeddings = filled(file, 2 * QUERY_SIZE + 3)
    asked = [*reversed(embeddings), *(f"other {i}" for i in range(QUERY_SIZE))]
    cache = EmbeddingCache(file, "model", WIDTH)
    assert bits(cache.find(asked)) == bits(embeddings)
    assert cache.find([]) == {} and cache.find(["", "' OR 1=1 --"]) == {} and cache.problem is None


def test_models_do_not_see_each_others_embeddings(file: Path) -> None:
    embeddings = filled(file)
    other = EmbeddingCache(file, "other", WIDTH)
    assert other.find(embeddings) == {}
    other.add({picture: -vector for picture, vector in embeddings.items()})
    assert bits(EmbeddingCache(file, "model", WIDTH).find(embeddings)) == bits(embeddings)


def test_embedding_added_again_takes_the_place_of_the_first(file: Path) -> None:
    embeddings = filled(file)
    again = {picture: vector + 1 for picture, vector in embeddings.items()}
    EmbeddingCache(file, "model", WIDTH).add(again)
    assert bits(EmbeddingCache(file, "model", WIDTH).find(embeddings)) == bits(again)


@pytest.mark.parametrize(
    "value",
    [
        "x'010203'",
        f"zeroblob({4 * WIDTH - 4})",
        f"zeroblob({8 * WIDTH})",
        f"'{'x' * 4 * WIDTH}'",
        "3",
        "2.5",
        "x''",
    ],
    ids=["no floats", "too narrow", "too wide", "text", "integer", "real", "empty"],
)
def test_what_is_no_embedding_of_the_width_is_unknown_until_one_takes_its_place(
    value: str, file: Path
) -> None:
    embeddings = filled(file)
    spoilt, *others = embeddings
    with sqlite3.connect(file) as connection:
        connection.execute(f"UPDATE embeddings SET embedding = {value} WHERE picture = ?", [spoilt])
    connection.close()
    cache = EmbeddingCache(file, "model", WIDTH)
    assert bits(cache.find(embeddings)) == bits(
        {picture: embeddings[picture] for picture in others}
    )
    cache.add({spoilt: embeddings[spoilt]})
    assert bits(cache.find(embeddings)) == bits(embeddings) and cache.problem is None


def test_two_commands_that_add_at_once_lose_nothing(file: Path) -> None:
    words = [sys.executable, "-c", ADD_ONE_BY_ONE, str(file)]
    writers = [
        subprocess.Popen([*words, name], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for name in "ab"
    ]
    for writer in writers:
        writer.stdin.write("go\n")
        writer.stdin.flush()
    assert [writer.communicate()[0] for writer in writers] == ["None\n", "None\n"]
    expected = {f"{name} {i}": np.full(4, i, np.float32) for name in "ab" for i in range(N_ADDED)}
    assert bits(EmbeddingCache(file, "model", 4).find(expected)) == bits(expected)


def cut(file: Path) -> None:
    filled(file, 300)
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def of_another_kind(file: Path) -> None:
    file.parent.mkdir()
    sqlite3.connect(file).execute("CREATE TABLE embeddings (x)").connection.close()


BROKEN: dict[str, Callable[[Path], object]] = {
    "text": lambda file: (file.parent.mkdir(), file.write_text("not a database" * 100)),
    "cut": cut,
    "another kind of database": of_another_kind,
    "a folder in its place": lambda file: file.mkdir(parents=True),
    "a file in place of its folder": lambda file: file.parent.touch(),
    "a link that leads nowhere": lambda file: (
        file.parent.mkdir(),
        file.symlink_to("absent/cache"),
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_file_is_told_and_knows_nothing(
    name: str, file: Path, tmp_path: Path, tree: Callable
) -> None:
    BROKEN[name](file)
    before = tree(tmp_path)
    cache = EmbeddingCache(file, "model", WIDTH)
    assert cache.find([f"{i:064x}" for i in range(300)]) == {}
    assert str(file) in cache.problem or str(file.parent) in cache.problem
    told = cache.problem
    cache.add({"new": np.zeros(WIDTH, np.float32)})
    assert cache.find(["new"]) == {} and cache.problem == told
    assert tree(tmp_path) == before


def test_file_that_another_command_keeps_locked_is_told_and_still_read(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    embeddings = filled(file)
    monkeypatch.setattr(embedding_cache, "BUSY_SECONDS", 0)
    cache = EmbeddingCache(file, "model", WIDTH)
    other = sqlite3.connect(file, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    assert bits(cache.find(embeddings)) == bits(embeddings) and cache.problem is None
    cache.add({"new": np.zeros(WIDTH, np.float32)})
    assert "locked" in cache.problem
    other.close()


@pytest.mark.parametrize(
    ("cache_home", "root"),
    [("/some/where", "/some/where"), ("", "/me/.cache"), (None, "/me/.cache")],
)
def test_file_lies_in_the_users_cache(
    cache_home: str | None, root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/me")
    monkeypatch.delenv("XDG_CACHE_HOME")
    if cache_home is not None:
        monkeypatch.setenv("XDG_CACHE_HOME", cache_home)
    assert embedding_cache_file() == Path(root) / "dalle" / "embeddings.sqlite"
