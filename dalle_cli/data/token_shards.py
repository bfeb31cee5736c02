"""Image tokens on disk: shards of encoded samples, and the record that completes a folder of them.

A shard is a safetensors file with the tokens of every crop, the key and captions of every sample as
JSON, and checksums of what was encoded, by which changed samples are noticed. The record, written
last, says which discrete VAE encoded them and seals the shards with checksums. Samples are read one
by one through memory maps. Knows nothing of pictures and models. Axes used below:

    N samples of a shard    C crops of a sample, the centred one first    I image positions
    M samples that it was made of, the bad ones included
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, TypeVar

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from dalle_cli.config import Positive
from dalle_cli.data.images import BadSample, Problem
from dalle_cli.errors import DalleError, printable
from dalle_cli.storage.atomic import atomic_write, sync_to_disk, write_file
from dalle_cli.storage.run_dir import ENCODING
from dalle_cli.storage.small_files import check_readable, read_file

SHARD_SAMPLES = 4096  # of the source, some of which may be bad
AGAIN = "encode into a new folder"
CHECKSUMS = "source_checksums"
DAMAGED_TOKENS, DAMAGED_TEXT = "damaged image tokens", "damaged key or captions"

STORED_AS = {"uint16": "U16", "int32": "I32"}  # safetensors' names of the types


class Encoding(BaseModel):
    """How samples were encoded: by which dVAE (its encoder's checksum), to how many tokens.

    decoding  the `DECODING_VERSION` with which pictures were read
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    dvae: str
    precision: str
    grid_size: Positive
    vocab_size: Positive
    copies: Positive
    decoding: Positive = 1  # before it was recorded

    @property
    def dtype(self) -> np.dtype:
        """The smallest type that holds every token: 16 bits if they suffice, else 32."""
        return np.dtype(np.uint16 if self.vocab_size <= 2**16 else np.int32)

    def shape(self, n_samples: int) -> tuple[int, int, int]:
        """Return the shape [N, C, I] of the tokens of N samples."""
        return n_samples, 1 + self.copies, self.grid_size**2


class ShardSeal(BaseModel):
    """The size and checksum of a shard."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    samples: Annotated[int, Field(ge=0)]
    sha256: str


class SealedFolder(BaseModel):
    """What a record states of a folder's shards, whatever they hold.

    bad   the samples left out, as (where, reason)
    lost  the `n_lost` of the source that was encoded
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    schema_version: Literal[1] = 1
    samples: Positive
    shards: list[ShardSeal]
    bad: list[Problem]
    lost: Annotated[int, Field(ge=0)] = 0

    def fingerprint(self) -> str:
        """Hash the checksums of all shards in order, to detect changed data."""
        return hashlib.sha256(" ".join(shard.sha256 for shard in self.shards).encode()).hexdigest()


class Record(SealedFolder):
    """The content of `encoding.json`."""

    encoding: Encoding


RecordT = TypeVar("RecordT", bound=SealedFolder)


class EncodedSample(NamedTuple):
    """One sample, with image_tokens integers [C, I]."""

    key: str
    captions: list[str]
    image_tokens: np.ndarray


def shard_path(folder: Path, number: int) -> Path:
    """Return the path of a shard."""
    return folder / f"tokens-{number:05d}.safetensors"


def write_shard(
    path: Path,
    encoding: Encoding,
    *,
    samples: list[EncodedSample],
    bad: list[Problem],
    checksums: np.ndarray,
) -> None:
    """Write a shard atomically.

    bad        the samples that belong to it and could not be used
    checksums  of what was read, of bad samples, too, in the order of the source: uint8 [M, 32]
    """
    tokens = np.array([sample.image_tokens for sample in samples], encoding.dtype)
    tensors = {
        "image_tokens": tokens.reshape(encoding.shape(len(samples))),  # [N, C, I]
        **text_tensors((sample.key, sample.captions) for sample in samples),
        CHECKSUMS: checksums,
    }
    write_sample_shard(path, tensors, bad)


def text_tensors(texts: Iterable[tuple[str, list[str]]]) -> dict[str, np.ndarray]:
    """Return the keys and captions of samples as tensors of a shard."""
    parts = [json.dumps(text).encode() for text in texts]
    return {
        "text": np.frombuffer(b"".join(parts), np.uint8),
        "text_ends": np.cumsum([len(part) for part in parts], dtype=np.int64),
    }


def write_sample_shard(path: Path, tensors: dict[str, np.ndarray], bad: list[Problem]) -> None:
    """Write the tensors of a shard atomically, with the samples that could not be used."""
    # `save_file` would make the file unreadable to others
    content = save(tensors, metadata={"bad": json.dumps(bad)})
    with atomic_write(path, len(content)) as temporary:
        temporary.write_bytes(content)
        sync_to_disk(temporary)


class SampleShard:
    """A shard of samples, mapped into memory: their keys and captions, whatever else it holds.

    what   the kind of shard, for messages
    names  of the tensors that are of this kind
    """

    what: ClassVar[str]
    names: ClassVar[tuple[str, ...]]

    def __init__(self, path: Path) -> None:
        """Open a shard; raises DalleError if the file is missing, cut short, or no such shard."""
        self._path = path
        try:
            check_readable(path)
            file = safe_open(path, "np")
            self._slices = {
                name: file.get_slice(name) for name in (*self.names, "text", "text_ends")
            }
            self.bad: list[Problem] = [
                (where, reason) for where, reason in json.loads(file.metadata()["bad"])
            ]
            (self._n_samples,) = self._slices["text_ends"].get_shape()
        except OSError as error:
            raise DalleError(f"cannot read {path}: {error.strerror}", AGAIN) from error
        except (
            SafetensorError,
            ValueError,
            LookupError,
            TypeError,
            RecursionError,
        ) as error:
            raise DalleError(f"{path} is not a shard of {self.what}: {error}", AGAIN) from error

    def __len__(self) -> int:
        return self._n_samples

    def text(self, index: int) -> tuple[str, list[str]]:
        """Read the key and captions of a sample; raises BadSample if they are damaged."""
        texts, ends = self._slices["text"], self._slices["text_ends"]
        start = int(ends[index - 1]) if index else 0
        try:
            key, captions = json.loads(texts[start : int(ends[index])].tobytes())
        except (ValueError, TypeError, SafetensorError, RecursionError):
            raise BadSample(DAMAGED_TEXT) from None

        is_text = isinstance(captions, list) and all(
            isinstance(text, str) for text in (key, *captions)
        )
        if not is_text or not captions:
            raise BadSample(DAMAGED_TEXT)
        return key, captions

    def checksums(self) -> np.ndarray:
        """Read the checksums of the samples that it was encoded from, uint8 [M, 32].

        A shard of an earlier version has none: [0, 32].
        """
        with safe_open(self._path, "np") as file:
            if CHECKSUMS not in file.keys():  # noqa: SIM118  it is no dict
                return np.empty((0, 32), np.uint8)
            return file.get_tensor(CHECKSUMS)

    def seal(self) -> ShardSeal:
        """Compute the checksum of the whole file."""
        with self._path.open("rb") as file:
            checksum = hashlib.file_digest(file, "sha256").hexdigest()
        return ShardSeal(samples=len(self), sha256=checksum)

    def _check_forms(self, forms: Mapping[str, tuple[str, list[int]]]) -> None:
        """Raise DalleError unless tensors have the types, as safetensors names them, and shapes."""
        for name, (dtype, shape) in forms.items():
            found = f"{self._slices[name].get_dtype()} {self._slices[name].get_shape()}"
            if found != f"{dtype} {shape}":
                raise DalleError(f"{self._path} holds {found} instead of {dtype} {shape}", AGAIN)


class TokenShard(SampleShard):
    """A shard of samples with image tokens."""

    what = "image tokens"
    names = ("image_tokens",)

    def __init__(self, path: Path, encoding: Encoding) -> None:
        """Open a shard; raises DalleError, too, if it is not of this encoding."""
        super().__init__(path)
        self._vocab_size = encoding.vocab_size
        dtype, shape = STORED_AS[encoding.dtype.name], list(encoding.shape(len(self)))
        self._check_forms({"image_tokens": (dtype, shape)})

    def image_tokens(self, index: int) -> np.ndarray:
        """Read the tokens of a sample, [C, I]; raises BadSample for one outside the vocabulary."""
        tokens = self._slices["image_tokens"][index]
        if int(tokens.max()) >= self._vocab_size or int(tokens.min()) < 0:
            raise BadSample(DAMAGED_TOKENS)
        return tokens


def write_record(
    folder: Path, encoding: Encoding, *, n_shards: int, problems: list[Problem], n_lost: int
) -> Record:
    """Seal the shards of a folder, which completes it.

    problems, n_lost  those of the source, which no shard records

    Raises DalleError if the shards hold no sample.
    """
    shards = [TokenShard(shard_path(folder, number), encoding) for number in range(n_shards)]
    record = Record(encoding=encoding, lost=n_lost, **sealed(shards, problems))
    write_file(folder / ENCODING, record.model_dump_json(indent=1) + "\n")
    return record


def sealed(shards: Sequence[SampleShard], problems: list[Problem]) -> dict[str, Any]:
    """Return what a record states of shards: their samples and seals, and what was left out.

    problems  those of the source, which no shard records

    Raises DalleError if the shards hold no sample.
    """
    n_samples = sum(map(len, shards))
    bad = [*problems, *(problem for shard in shards for problem in shard.bad)]
    if not n_samples:
        reasons = "; ".join(f"{where}: {reason}" for where, reason in bad[:3])
        raise DalleError("not one usable sample", reasons)
    return {"samples": n_samples, "shards": [shard.seal() for shard in shards], "bad": bad}


def read_record(folder: Path) -> Record:
    """Read the record of a folder; raises DalleError if the file holds anything else."""
    return read_sealed(folder / ENCODING, Record)


def read_sealed(path: Path, record_type: type[RecordT]) -> RecordT:
    """Read a record of some type; raises DalleError if the file holds anything else."""
    try:
        record = record_type.model_validate_json(read_file(path))
    except ValidationError as error:
        problem = error.errors()[0]
        place = printable(".".join(map(str, problem["loc"])))
        raise DalleError(f"{path} is damaged: `{place}`: {problem['msg']}", AGAIN) from error

    if sum(shard.samples for shard in record.shards) != record.samples:
        raise DalleError(
            f"{path} is damaged: its shards do not add up to {record.samples} samples", AGAIN
        )
    return record


def is_encoded(folder: Path) -> bool:
    """Return whether a folder holds image tokens.

    Raises DalleError if their encoding was started and not finished.
    """
    if (folder / ENCODING).is_file():
        return True
    if shard_path(folder, 0).is_file():
        raise DalleError(
            f"encoding was not finished: {folder}",
            "the same `dalle data encode` command resumes it",
        )
    return False
