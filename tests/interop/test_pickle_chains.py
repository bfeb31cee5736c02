"""Files older than torch's archives: the same tensors, and never more memory than their size."""

import struct
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dalle_cli.errors import DalleError
from dalle_cli.interop.torch_files import read_tensors

FLIPS = st.lists(
    st.tuples(st.floats(0, 1, exclude_max=True), st.integers(1, 255)), min_size=1, max_size=4
)


def written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def test_tensors_come_back_with_their_types_and_strides(saved: Callable, tmp_path: Path) -> None:
    both = torch.arange(6.0)
    dtypes = [torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.int8, torch.bool]
    tensors = {str(dtype): torch.tensor([0, 1, 1]).to(dtype) for dtype in dtypes}
    tensors |= {
        "turned": torch.rand(2, 3).t(),
        "first": both[:2],
        "second": both[2:],
        "nothing": torch.zeros(0, 2),
    }
    found = read_tensors(written(tmp_path / "old.pt", saved(tensors, archive=False)))
    torch.testing.assert_close(found, tensors, rtol=0, atol=0, check_stride=False)


@pytest.mark.parametrize("count", [5, 2**40, 2**62, -1])
def test_storage_that_promises_more_than_the_file_has_is_told(
    count: int, saved: Callable, tmp_path: Path
) -> None:
    content = saved({"w": torch.ones(4)}, archive=False)
    end = len(content) - 16 - 8  # four floats after their count
    assert content[end : end + 8] == struct.pack("<q", 4)
    path = written(
        tmp_path / "old.pt", content[:end] + struct.pack("<q", count) + content[end + 8 :]
    )
    with pytest.raises(
        DalleError,
        match=rf"old\.pt is damaged .* storage of {count} elements extends "
        "beyond the end of the file",
    ):
        read_tensors(path)


def test_tensors_that_share_a_storage_may_not_outgrow_the_file(
    saved: Callable, tmp_path: Path
) -> None:
    storage = torch.zeros(2**16)
    path = written(
        tmp_path / "old.pt", saved({f"x{number}": storage for number in range(300)}, archive=False)
    )
    with pytest.raises(
        DalleError, match=r"old\.pt is refused: the tensors in it are larger than the file"
    ):
        read_tensors(path)


def test_file_of_a_machine_of_another_endianness_is_refused(
    saved: Callable, tmp_path: Path
) -> None:
    content = bytearray(saved({"w": torch.ones(4)}, archive=False))
    true = content.index(b"\x88", content.index(b"little_endian"))  # pickle's codes
    content[true : true + 1] = b"\x89"
    path = written(tmp_path / "old.pt", bytes(content))
    with pytest.raises(DalleError, match="comes from a machine of another endianness"):
        read_tensors(path)


@pytest.mark.thorough
@given(flips=FLIPS)
@settings(max_examples=200, deadline=None)
def test_flipped_bytes_give_tensors_or_an_error(
    flips: list[tuple[float, int]],
    state: dict[str, Tensor],
    saved: Callable,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    content = bytearray(saved(state, archive=False))
    for place, mask in flips:
        content[int(place * len(content))] ^= mask
    path = written(tmp_path_factory.getbasetemp() / "flipped_chain.pt", bytes(content))
    try:
        tensors = read_tensors(path)
    except DalleError as error:
        assert error.message.startswith(str(path))
    else:
        assert all(
            type(tensor) is Tensor and tensor.sum() is not None for tensor in tensors.values()
        )
