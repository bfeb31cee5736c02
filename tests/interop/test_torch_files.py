"""Foreign checkpoint files: known by their content, refused otherwise, and nothing in them runs."""

import os
import pickle
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save as safetensors_of
from safetensors.torch import save_file
from torch import Tensor

from dalle_cli.errors import DalleError
from dalle_cli.interop.torch_files import read_tensors

pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning"
)  # torch.jit is, its files are not


def written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("name", ["weights.pt", "weights.safetensors", "weights"])
@pytest.mark.parametrize("kind", ["zip", "chain", "safetensors", "script"])
def test_content_and_not_the_suffix_says_what_a_file_is(
    kind: str, name: str, script: bytes, saved: Callable, state: dict[str, Tensor], tmp_path: Path
) -> None:
    path = tmp_path / name
    if kind == "safetensors":
        save_file({key: tensor.clone().contiguous() for key, tensor in state.items()}, path)
    else:
        path.write_bytes(script if kind == "script" else saved(state, archive=kind == "zip"))
    torch.testing.assert_close(read_tensors(path), state, rtol=0, atol=0, check_stride=False)


def hostile_file(
    name: str, payload: object, script: bytes, saved: Callable, rezipped: Callable
) -> bytes:
    """Put a payload where a loader might unpickle it."""
    if name.startswith("pickle"):
        return pickle.dumps({"a": [payload]}, int(name[6]))
    if name.startswith("script"):
        return rezipped(script, **{"data.pkl": pickle.dumps({"a": [payload]}, int(name[6]))})
    return saved({"w": torch.ones(1), "x": payload}, archive=name.startswith("archive"))


@pytest.mark.parametrize(
    "name",
    [
        "archive.pt",
        "archive.safetensors",
        "chain.pt",
        "chain.safetensors",
        "script2.pt",
        "script4.pt",
        "pickle2.pt",
        "pickle4.pt",
        "pickle5.safetensors",
    ],
)
def test_payload_is_refused_by_name_and_never_runs(
    name: str, payload: object, script: bytes, saved: Callable, rezipped: Callable, tmp_path: Path
) -> None:
    path = written(tmp_path / name, hostile_file(name, payload, script, saved, rezipped))
    with pytest.raises(
        DalleError, match=rf"{name} is refused: it asks to run (posix|nt)\.system"
    ) as caught:
        read_tensors(path)
    assert not payload.marker.exists() and "safetensors" in caught.value.hint


def test_payload_runs_where_it_is_believed(payload: object) -> None:
    """Without this, the tests around it would prove nothing."""
    pickle.loads(pickle.dumps(payload))
    assert payload.marker.exists()


def test_name_of_a_refused_global_is_shown_short_and_harmless(tmp_path: Path) -> None:
    pickled = b"\x80\x02c__builtin__\n\x1b[31meval" + b"x" * 10_000 + b"\n."
    with pytest.raises(DalleError, match=r"asks to run __builtin__\.\ufffd") as caught:
        read_tensors(written(tmp_path / "weights.pt", pickled))
    assert len(caught.value.message) < 500 and "\x1b" not in caught.value.message


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"\x80",
        b"\x80\x02",
        b"PK\x03\x04",
        b"<!DOCTYPE html>",
        b"12345678{",
        b"\xff" * 8 + b"{}",
        bytes(64),
    ],
)
def test_what_is_no_checkpoint_is_told(content: bytes, tmp_path: Path) -> None:
    with pytest.raises(DalleError, match=r"page\.pt is (damaged or )?not a checkpoint"):
        read_tensors(written(tmp_path / "page.pt", content))


def test_safetensors_header_that_lies_is_told(tmp_path: Path) -> None:
    headers = [
        '{"w":{"dtype":"F32","shape":[2],"data_offsets":[0,4]}}',
        '{"w":{"dtype":"F32","shape":[NaN],"data_offsets":[0,4]}}',
        '{"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},"b":{"dtype":"U8","shape":[4],"data_offsets":[2,6]}}',
    ]
    for header in headers:
        path = written(
            tmp_path / "w.safetensors", struct.pack("<Q", len(header)) + header.encode() + bytes(6)
        )
        with pytest.raises(DalleError, match=r"w\.safetensors is damaged"):
            read_tensors(path)


def test_path_that_is_no_file_is_told_with_the_reason(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for name, reason in (
        ("missing.pt", "cannot be read: No such file"),
        ("", "is not a file"),
        ("pipe", "is not a"),
    ):
        with pytest.raises(DalleError, match=reason):
            read_tensors(tmp_path / name)


@pytest.mark.parametrize("kind", ["script", "zip", "chain", "safetensors"])
def test_truncated_file_is_told_wherever_it_ends(
    kind: str, script: bytes, saved: Callable, state: dict[str, Tensor], tmp_path: Path
) -> None:
    whole = safetensors_of({key: tensor.clone().contiguous() for key, tensor in state.items()})
    files = {
        "script": script,
        "zip": saved(state),
        "chain": saved(state, archive=False),
        "safetensors": whole,
    }
    content = files[kind]
    for sixteenth in range(16):
        with pytest.raises(DalleError, match=r"part\.pt is (damaged or )?not a checkpoint"):
            read_tensors(written(tmp_path / "part.pt", content[: len(content) * sixteenth // 16]))
