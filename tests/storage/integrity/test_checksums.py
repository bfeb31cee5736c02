"""Checksums inside files: every bit counts, and what earlier versions wrote is read."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from dalle_cli.errors import DalleError
from dalle_cli.storage.integrity.checksums import (
    check_checksum,
    checksummed_json,
    has_checksum,
    load_checksummed_json,
)
from dalle_cli.storage.integrity.tensor_files import write_checksummed_tensors

CONTENT = {"schema": 2, "kind": "toy", "nested": {"sha256": "0" * 64}, "ü": [1.5, None]}


def turned(content: bytes) -> Iterator[bytes]:
    """Yield a file's content with each of its bits turned, one at a time."""
    for place in range(len(content) * 8):
        changed = bytearray(content)
        changed[place // 8] ^= 1 << place % 8
        yield bytes(changed)


@pytest.mark.thorough
@pytest.mark.parametrize("style", [{}, {"indent": None}, {"indent": 0, "ensure_ascii": False}])
def test_every_bit_of_a_json_file_counts(style: dict, tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    content = checksummed_json(CONTENT, **style)
    path.write_bytes(content)
    check_checksum(path)
    read = load_checksummed_json(path, since=2)
    assert {key: value for key, value in read.items() if key != "sha256"} == CONTENT
    for changed in turned(content):
        path.write_bytes(changed)
        with pytest.raises((DalleError, ValueError)):
            load_checksummed_json(path, since=2)


def test_every_bit_of_a_safetensors_file_counts(tmp_path: Path) -> None:
    path = tmp_path / "file.safetensors"
    tensors = {"weight": torch.arange(6.0).view(2, 3), "half": torch.ones(3).half()}
    write_checksummed_tensors(path, tensors)
    check_checksum(path)
    torch.testing.assert_close(load_file(path), tensors, rtol=0, atol=0)
    for changed in turned(path.read_bytes()):
        path.write_bytes(changed)
        with pytest.raises(DalleError, match="is damaged: it "):
            check_checksum(path)


@pytest.mark.parametrize("n_bytes", [0, 1, 100, 255, -1])
def test_file_that_is_cut_is_damaged(n_bytes: int, tmp_path: Path) -> None:
    path = tmp_path / "file.safetensors"
    write_checksummed_tensors(path, {"weight": torch.ones(100)})
    path.write_bytes(path.read_bytes()[:n_bytes])
    with pytest.raises(DalleError, match=r"file\.safetensors is damaged: it"):
        check_checksum(path)


def test_content_decides_the_checksum(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_checksummed_tensors(tmp_path / name, {"weight": torch.ones(2, 2)})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    read = json.loads(checksummed_json(CONTENT))
    assert checksummed_json(read) == checksummed_json(CONTENT)


def test_earlier_formats_are_read_without_a_checksum(tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    for stated in ({"schema": 1}, {"schema_version": 1}, {}):
        path.write_text(json.dumps(stated))
        assert load_checksummed_json(path, since=2) == stated and not has_checksum(path)
    path.write_text(json.dumps({"schema": 2}))
    with pytest.raises(DalleError, match="it has no checksum"):
        load_checksummed_json(path, since=2)

    save_file({"weight": torch.ones(2)}, tmp_path / "file.safetensors")
    check_checksum(tmp_path / "file.safetensors", required=False)
    with pytest.raises(DalleError, match="it has no checksum"):
        check_checksum(tmp_path / "file.safetensors")
