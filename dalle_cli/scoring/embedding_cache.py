"""Picture embeddings kept between commands, so that another caption for the same pictures costs next to nothing.

One SQLite file in the user's cache folder, by a name for all that makes embeddings of pixels and the checksum of the
picture's bytes. It is a convenience: where it cannot be used, everything is computed anew and `problem` says why; what
is in it but is no embedding counts as unknown. Axis: E width of an embedding.
"""

import sqlite3
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TypeVar

import numpy as np

Result = TypeVar("Result")

BUSY_SECONDS = 10  # how long to wait for another command that is writing
AT_ONCE = 500  # values in one query; SQLite's own limit is higher

SCHEMA = """
CREATE TABLE IF NOT EXISTS embeddings (
    model TEXT NOT NULL, picture TEXT NOT NULL, embedding BLOB NOT NULL, PRIMARY KEY (model, picture)
) WITHOUT ROWID
"""


class EmbeddingCache:
    """The embeddings that one model has made of pictures."""

    def __init__(self, path: Path, model: str, width: int) -> None:
        """Open the file, or make it.

        model  names all that an embedding depends on beside its picture's bytes: weights, precision, preprocessing
        width  of an embedding, E
        """
        self.problem: str | None = None
        self._path = path
        self._model = model
        self._n_bytes = width * np.dtype(np.float32).itemsize
        self._connection = self._try(self._open)

    def find(self, pictures: Iterable[str]) -> dict[str, np.ndarray]:
        """Look pictures up by their checksums: float32 [E] for each that is known."""
        pictures = list(pictures)
        found: dict[str, np.ndarray] = {}
        for start in range(0, len(pictures), AT_ONCE):
            found |= self._try(self._select, pictures[start : start + AT_ONCE]) or {}
        return found

    def add(self, embeddings: Mapping[str, np.ndarray]) -> None:
        """Keep embeddings float32 [E] by their pictures' checksums."""
        self._try(self._insert, embeddings)

    def close(self) -> None:
        """Let go of the file."""
        if self._connection is not None:
            self._connection.close()

    def _open(self) -> sqlite3.Connection:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        connection = sqlite3.connect(self._path, timeout=BUSY_SECONDS)
        connection.execute(SCHEMA)
        return connection

    def _select(self, pictures: list[str]) -> dict[str, np.ndarray]:
        marks = ", ".join("?" * len(pictures))
        query = (
            "SELECT picture, embedding FROM embeddings WHERE model = ? "
            f"AND typeof(embedding) = 'blob' AND length(embedding) = ? AND picture IN ({marks})"
        )
        rows = self._connection.execute(query, [self._model, self._n_bytes, *pictures])
        return {picture: np.frombuffer(embedding, np.float32) for picture, embedding in rows}

    def _insert(self, embeddings: Mapping[str, np.ndarray]) -> None:
        rows = [
            (self._model, picture, np.float32(vector).tobytes())
            for picture, vector in embeddings.items()
        ]
        with self._connection:
            self._connection.executemany("INSERT OR REPLACE INTO embeddings VALUES (?, ?, ?)", rows)

    def _try(self, action: Callable[..., Result], *arguments: object) -> Result | None:
        """Do something with the file, unless something has failed before; remember what failed."""
        if self.problem is not None:
            return None
        try:
            return action(*arguments)
        except (sqlite3.Error, OSError, ValueError) as error:
            self.problem = f"{self._path}: {error}"
            return None
