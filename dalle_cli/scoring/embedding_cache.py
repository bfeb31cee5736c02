"""A cache of picture embeddings, which makes another caption for the same pictures cheap.

It is a SQLite file in the user's cache folder, keyed by the model that embeds and by the checksum
of a picture's bytes. It is a convenience: if it cannot be used, everything is computed anew and
`problem` states why; an entry that is not an embedding counts as missing. Axis: E width of an
embedding.
"""

import sqlite3
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TypeVar

import numpy as np

from dalle_cli.storage.run_dir import NO_CACHE, cache_folder

Result = TypeVar("Result")

BUSY_SECONDS = 10  # how long to wait for another command that is writing
QUERY_SIZE = 500  # pictures in one query; SQLite's limit is higher

CREATE_TABLE = """
CREATE TABLE IF NOT EXISTS embeddings (
    model TEXT NOT NULL, picture TEXT NOT NULL, embedding BLOB NOT NULL,
    PRIMARY KEY (model, picture)
) WITHOUT ROWID
"""


def embedding_cache_file() -> Path | None:
    """Return the path of the file in the user's cache folder; None if there is no such folder."""
    folder = cache_folder()
    return None if folder is None else folder / "embeddings.sqlite"


class EmbeddingCache:
    """The cached picture embeddings of one model."""

    def __init__(self, path: Path | None, model: str, width: int) -> None:
        """Open the file, or create it.

        path   None if there is no place for it: nothing is cached
        model  everything that an embedding depends on, apart from the picture's bytes: weights,
               precision, preprocessing
        width  of an embedding, E
        """
        self.problem: str | None = NO_CACHE if path is None else None
        self._path = path
        self._model = model
        self._n_bytes = width * np.dtype(np.float32).itemsize
        self._connection = self._try(self._open)

    def find(self, pictures: Iterable[str]) -> dict[str, np.ndarray]:
        """Look up pictures by checksum: float32 [E] for each that is cached."""
        pictures = list(pictures)
        found: dict[str, np.ndarray] = {}
        for start in range(0, len(pictures), QUERY_SIZE):
            found |= self._try(self._select, pictures[start : start + QUERY_SIZE]) or {}
        return found

    def add(self, embeddings: Mapping[str, np.ndarray]) -> None:
        """Store embeddings float32 [E] by the checksums of their pictures."""
        self._try(self._insert, embeddings)

    def close(self) -> None:
        """Close the file."""
        if self._connection is not None:
            self._connection.close()

    def _open(self) -> sqlite3.Connection:
        assert self._path is not None  # without a place, nothing is tried
        self._path.parent.mkdir(parents=True, exist_ok=True)
        connection = sqlite3.connect(self._path, timeout=BUSY_SECONDS)
        connection.execute(CREATE_TABLE)
        return connection

    def _select(self, pictures: list[str]) -> dict[str, np.ndarray]:
        assert self._connection is not None  # after a failed open, nothing is tried
        marks = ", ".join("?" * len(pictures))
        query = (
            "SELECT picture, embedding FROM embeddings WHERE model = ? "
            f"AND typeof(embedding) = 'blob' AND length(embedding) = ? AND picture IN ({marks})"
        )
        rows = self._connection.execute(query, [self._model, self._n_bytes, *pictures])
        return {picture: np.frombuffer(embedding, np.float32) for picture, embedding in rows}

    def _insert(self, embeddings: Mapping[str, np.ndarray]) -> None:
        assert self._connection is not None  # after a failed open, nothing is tried
        rows = [
            (self._model, picture, np.float32(vector).tobytes())
            for picture, vector in embeddings.items()
        ]
        with self._connection:
            self._connection.executemany("INSERT OR REPLACE INTO embeddings VALUES (?, ?, ?)", rows)

    def _try(self, action: Callable[..., Result], *arguments: object) -> Result | None:
        """Run an action on the file and record its failure; after a failure, do nothing."""
        if self.problem is not None:
            return None
        try:
            return action(*arguments)
        except (sqlite3.Error, OSError, ValueError) as error:
            self.problem = f"{self._path}: {error}"
            return None
