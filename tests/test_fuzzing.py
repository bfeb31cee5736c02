"""Files from strangers with anything changed in them: an error with a message, or a result.

No traceback, no hang, and nothing written. The short form looks at a few changes, the long one at
thousands.
"""

import io
import shutil
import signal
import tarfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from toy_about import ABOUT

from dalle_cli.data.clip_tokenizer import read_clip_vocabulary
from dalle_cli.data.images import BadSample, decode_image
from dalle_cli.data.picture_lists import list_pictures
from dalle_cli.data.sources import EmbeddingSource, Source, open_dataset
from dalle_cli.data.sources.exclusion import read_keys
from dalle_cli.data.text.known_words import KnownWords
from dalle_cli.data.tokenizer import Tokenizer
from dalle_cli.data.unclip.clip_embeddings import CaptionEmbedding, SampleEmbeddings
from dalle_cli.data.unclip.embedding_shards import (
    ClipEncoding,
    EmbeddedSample,
    embedding_shard_path,
    write_embedding_record,
    write_embedding_shard,
)
from dalle_cli.errors import DalleError
from dalle_cli.evaluation.evaluated_pairs import read_training_record
from dalle_cli.evaluation.evaluation_folder import read_evaluation
from dalle_cli.generation.prompts import read_captions
from dalle_cli.interop.torch_files import read_tensors
from dalle_cli.loading import load_dvae
from dalle_cli.recipe import flat_tables, load_recipe, read_tables, shipped_recipes
from dalle_cli.storage.job_folder import JobFolder
from dalle_cli.storage.model_about import read_about
from dalle_cli.storage.run_dir import RunDir
from dalle_cli.storage.run_record import RunRecord
from dalle_cli.training.checkpoint import load_checkpoint
from dalle_cli.training.trackers.curves import Logged

CPU_SECONDS = 10  # within which any file is read or refused
STEP = "step-00000011"
CAPTIONS = ["a red circle", "“Blüte” \u202e", "x" * 300]

# where something is changed, as a share of the file; what is done there; and with which bytes
EDITS = st.lists(
    st.tuples(
        st.one_of(st.floats(0, 1), st.floats(0, 0.01)),
        st.sampled_from(["overwrite", "insert", "remove", "cut", "repeat"]),
        st.one_of(
            st.binary(min_size=1, max_size=9),
            st.sampled_from([b"\0", b"\xff\xfe", b"\x1b[2J", b"../", b"[" * 2000, b"9" * 5000]),
        ),
    ),
    min_size=1,
    max_size=4,
)


def edited(content: bytes, edits: list[tuple[float, str, bytes]]) -> bytes:
    for share, action, given_bytes in edits:
        place, size = int(share * len(content)), len(given_bytes)
        before, after = content[:place], content[place:]
        content = {
            "overwrite": before + given_bytes + after[size:],
            "insert": before + given_bytes + after,
            "remove": before + after[size:],
            "cut": before,
            "repeat": before + after[:size] * 50 + after,
        }[action]
    return content


@dataclass(frozen=True)
class Target:
    """A file that is read, and how.

    name    of the file in its folder
    make    writes the folder; returns nothing where the file alone is needed
    read    reads the file, given its path
    """

    name: str
    make: Callable[[Path], object]
    read: Callable[[Path], object]


def picture(kind: str) -> bytes:
    stream = io.BytesIO()
    Image.linear_gradient("L").resize((24, 16)).convert("RGB").save(stream, kind)
    return stream.getvalue()


def tar(folder: Path) -> None:
    with tarfile.open(folder / "file.tar", "w") as archive:
        for i, caption in enumerate(CAPTIONS):
            for name, content in ((f"{i}.png", picture("PNG")), (f"{i}.txt", caption.encode())):
                header = tarfile.TarInfo(name)
                header.size = len(content)
                archive.addfile(header, io.BytesIO(content))


def pair(folder: Path) -> None:
    (folder / "file.png").write_bytes(picture("PNG"))
    (folder / "file.txt").write_text(CAPTIONS[1])


def manifest(text: str) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        (folder / "a.png").write_bytes(picture("PNG"))
        for suffix in ("csv", "tsv", "jsonl", "json"):
            (folder / f"file.{suffix}").write_text(text)

    return make


def read_all(source: Source) -> None:
    source.fingerprint()
    for index in range(len(source)):
        with suppress(BadSample):
            decode_image(source.read(index).image)
        with suppress(BadSample):
            source.captions(index)


def read_source(path: Path) -> None:
    read_all(open_dataset(str(path), captions_required=False))


def encode(path: Path) -> None:
    for caption in CAPTIONS:
        Tokenizer.load(path).encode(caption)


def encode_for_clip(path: Path) -> None:
    read_clip_vocabulary(path)(CAPTIONS, 77)


def load_all(path: Path) -> None:
    for tensors in load_checkpoint(path.parent).tensors.values():
        for name in tensors:
            tensors[name]


def text(content: str) -> Callable[[Path], str]:
    return lambda folder: content


def write_embeddings(folder: Path) -> None:
    """Write a folder of embeddings of two samples."""
    encoding = ClipEncoding(
        clip="abc", precision="fp32", d_embed=2, d_text=3, text_len=4, text_vocab_size=9,
        copies=1, square=1, decoding=2,
    )  # fmt: skip
    caption = CaptionEmbedding(
        np.array([7, 8]), np.ones(2, np.float32), np.ones((2, 3), np.float16)
    )
    pairs = SampleEmbeddings(np.ones((2, 2), np.float32), [caption])
    samples = [EmbeddedSample(key, [key], pairs) for key in ("a", "b")]
    write_embedding_shard(
        embedding_shard_path(folder, 0),
        encoding,
        samples=samples,
        bad=[],
        checksums=np.zeros((2, 32), np.uint8),
    )
    write_embedding_record(folder, encoding, n_shards=1, problems=[], n_lost=0)


def read_embeddings(path: Path) -> None:
    source = EmbeddingSource(str(path.parent))
    for index in range(len(source)):
        with suppress(BadSample):
            source.read(index)


CSV = 'path,caption\na.png,a ring\na.png,"two\nlines"\n'
JSONL = '{"path": "a.png", "caption": "a ring"}\n{"path": "a.png", "caption": ["b", "c"]}\n'
TARGETS = {
    "recipe": Target(
        "file.toml",
        lambda folder: shipped_recipes()["transformer/tiny"].read_text("utf-8"),
        lambda path: load_recipe(str(path), []),
    ),
    "caption": Target("file.txt", pair, lambda path: read_source(path.parent)),
    "prompts": Target(
        "file.txt", text("\n".join(CAPTIONS)), lambda path: read_captions([], str(path))
    ),
    "table of prompts": Target(
        "file.csv", text(CSV), lambda path: read_captions([], str(path))
    ),
    "JSON of prompts": Target(
        "file.json", text('["a ring", {"caption": "b"}]'), lambda path: read_captions([], str(path))
    ),
    "CSV manifest": Target("file.csv", manifest(CSV), read_source),
    "JSON Lines manifest": Target("file.jsonl", manifest(JSONL), read_source),
    "list of pictures": Target(
        "file.jsonl", manifest(JSONL), lambda path: list_pictures(str(path))
    ),
    "list of keys": Target("file.txt", text('birds/001\n"a\\nb"\n'), read_keys),
    "note of what trackers have": Target(
        "logged.json",
        text('{"wandb": {"id": "a", "step": 5, "names": ["train/loss"]}}'),
        lambda path: Logged.read(RunDir(path.parent), "wandb"),
    ),
    "tar shard": Target("file.tar", tar, read_source),
    "vocabulary": Target("run/tokenizer/merges.json", lambda folder: None, encode),
    "list of merges": Target(
        "file.txt", text("#version: 0.2\na b\nab c</w>\n"), encode_for_clip
    ),
    "known words": Target("run/tokenizer/words.json", lambda folder: None, KnownWords.load),
    "weights": Target(
        "run/dvae/model.safetensors", lambda folder: None, lambda path: load_dvae(path.parents[1])
    ),
    "weights of unknown origin": Target(
        "run/dvae/model.safetensors", lambda folder: None, read_tensors
    ),
    "model config": Target(
        "run/dvae/config.json", lambda folder: None, lambda path: load_dvae(path.parents[1])
    ),
    "run record": Target(
        "run/recipe.json", lambda folder: None, lambda path: RunRecord.read(RunDir(path.parent))
    ),
    "job": Target(
        "job.json",
        text('{"schema": 2, "command": "generate", "captions": ["a"]}'),
        lambda path: JobFolder.open(path.parent).recall_choice("precision", "auto"),
    ),
    "evaluation": Target(
        "evaluation.json",
        text('{"run": "a", "kind": "clip", "protocol": {}, "figures": {"b": 1}, "warnings": []}'),
        read_evaluation,
    ),
    "record of training data": Target(
        "run/recipe.json",
        lambda folder: None,
        lambda path: read_training_record(RunDir(path.parent)),
    ),
    "checkpoint": Target(f"run/{STEP}/parameters.safetensors", lambda folder: None, load_all),
    "checkpoint's manifest": Target(f"run/{STEP}/manifest.json", lambda folder: None, load_all),
    "shard of embeddings": Target(
        "embeddings-00000.safetensors", write_embeddings, read_embeddings
    ),
    "record of embeddings": Target("embeddings.json", write_embeddings, read_embeddings),
    "about": Target("about.toml", text(ABOUT), lambda path: read_about(RunDir(path.parent))),
    **{
        f"{kind} picture": Target(
            f"file.{kind.lower()}",
            lambda folder, kind=kind: (folder / f"file.{kind.lower()}").write_bytes(picture(kind)),
            lambda path: decode_image(path.read_bytes()),
        )
        for kind in ("PNG", "JPEG", "WEBP", "GIF")
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory, transformer_run: Path) -> dict[str, Path]:
    """A folder for each target, with the file as it should be."""
    root = tmp_path_factory.mktemp("fuzzing")
    places = {name: root / str(number) for number, name in enumerate(TARGETS)}
    for name, folder in places.items():
        target = TARGETS[name]
        folder.mkdir()
        if target.name.startswith("run/"):
            (folder / "run").mkdir()
            part = target.name.split("/")[1]
            source = transformer_run / (f"checkpoints/{STEP}" if part == STEP else part)
            copy = shutil.copy if source.is_file() else shutil.copytree
            copy(source, folder / "run" / part)
        made = target.make(folder)
        if isinstance(made, str):
            (folder / target.name).write_text(made, encoding="utf-8")
        target.read(folder / target.name)  # as it is, it is read
    return places


@contextmanager
def no_hang() -> Iterator[None]:
    """Raise where more processor time is taken than any file may take."""

    def give_up(*_: object) -> None:
        raise TimeoutError("it hangs")

    before = signal.signal(signal.SIGVTALRM, give_up)
    signal.setitimer(signal.ITIMER_VIRTUAL, CPU_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


def look(root: Path) -> dict[Path, tuple[int, int]]:
    """Return the size and the time of every file."""
    states = {path: path.stat() for path in root.rglob("*")}
    return {path: (state.st_size, state.st_mtime_ns) for path, state in states.items()}


def check(name: str, edits: list, folders: dict[str, Path]) -> None:
    """Read a changed file; DalleError, OSError and BadSample have a message for users."""
    target, folder = TARGETS[name], folders[name]
    path = folder / target.name
    whole = path.read_bytes()
    try:
        path.write_bytes(edited(whole, edits))
        before = look(folder.parent)
        with no_hang(), suppress(DalleError, OSError, BadSample):
            target.read(path)
        assert look(folder.parent) == before
    finally:
        path.write_bytes(whole)


few = settings(max_examples=12, deadline=None, derandomize=True, database=None)
many = settings(max_examples=2000, deadline=None, suppress_health_check=list(HealthCheck))


@pytest.mark.parametrize("name", TARGETS)
@given(edits=EDITS)
@few
def test_changed_file_is_read_or_refused(name: str, edits: list, folders: dict[str, Path]) -> None:
    check(name, edits, folders)


@pytest.mark.slow
@pytest.mark.parametrize("name", TARGETS)
@given(edits=EDITS)
@many
def test_thousands_of_changed_files_are_read_or_refused(
    name: str, edits: list, folders: dict[str, Path]
) -> None:
    check(name, edits, folders)


KEYS = sorted(flat_tables(read_tables("transformer/tiny")))
VALUES = st.one_of(
    st.text(), st.integers(), st.floats(), st.booleans(), st.lists(st.floats()), st.just("{a=1}")
)


def check_value(key: str, value: object) -> None:
    with no_hang(), suppress(DalleError):
        load_recipe("transformer/tiny", [f"{key}={value}"])


@given(key=st.one_of(st.sampled_from(KEYS), st.text()), value=VALUES)
@settings(few, max_examples=60)
def test_any_value_of_a_recipe_is_taken_or_refused(key: str, value: object) -> None:
    check_value(key, value)


@pytest.mark.slow
@given(key=st.one_of(st.sampled_from(KEYS), st.text()), value=VALUES)
@many
def test_thousands_of_values_of_a_recipe_are_taken_or_refused(key: str, value: object) -> None:
    check_value(key, value)
