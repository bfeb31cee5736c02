"""Pickles made by hand: tensors agree with as_strided, tricks are errors, and nothing ever runs."""

import struct
import zipfile
from pathlib import Path

import pytest
import torch
from torch import Tensor

from dalle_cli.errors import DalleError
from dalle_cli.interop.torch_files import read_tensors

STUB = b"c__torch__\nM\n)\x81"  # an object of a class of the archive
TENSOR = b"ctorch._utils\n_rebuild_tensor_v2\n"
STORAGE = (
    b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x04tQ"
)
NOTHING = b"\x89ccollections\nOrderedDict\n)R"


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def attributes(**values: bytes) -> bytes:
    return b"}(" + b"".join(text(name) + value for name, value in values.items()) + b"ub"


def integers(*values: int) -> bytes:
    numbers = (value.to_bytes(9, "little", signed=True) for value in values)
    return b"(" + b"".join(b"\x8a\x09" + number for number in numbers) + b"t"


def tensor(offset: int, size: bytes, stride: bytes, storage: bytes = STORAGE) -> bytes:
    return (
        TENSOR
        + b"("
        + storage
        + b"\x8a\x09"
        + offset.to_bytes(9, "little", signed=True)
        + size
        + stride
        + b"\x89NtR"
    )


def read_pickle(pickled: bytes, tmp_path: Path, numbers: Tensor | None = None) -> dict[str, Tensor]:
    """Read a TorchScript archive of one storage, four floats, and this data.pkl."""
    numbers = torch.arange(4.0) if numbers is None else numbers
    with zipfile.ZipFile(tmp_path / "made.pt", "w") as archive:
        archive.writestr("made/data.pkl", b"\x80\x02" + pickled + b".")
        archive.writestr("made/constants.pkl", b"\x80\x02).")
        archive.writestr("made/data/0", numbers.numpy().tobytes())
    return read_tensors(tmp_path / "made.pt")


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=0, check_stride=False)


@pytest.mark.parametrize(
    ("offset", "size", "stride"),
    [
        (0, (4,), (1,)),
        (1, (3,), (1,)),
        (0, (2, 2), (1, 2)),
        (3, (), ()),
        (0, (0, 9), (9, 1)),
        (1, (2,), (2,)),
    ],
)
def test_tensor_inside_its_storage_is_what_as_strided_says(
    offset: int, size: tuple[int, ...], stride: tuple[int, ...], tmp_path: Path
) -> None:
    found = read_pickle(
        STUB + attributes(w=tensor(offset, integers(*size), integers(*stride))), tmp_path
    )
    assert_same(found, {"w": torch.arange(4.0).as_strided(size, stride, offset)})


@pytest.mark.parametrize(
    ("offset", "size", "stride"),
    [
        (0, (5,), (1,)),
        (1, (4,), (1,)),
        (4, (), ()),
        (0, (2, 2), (1, 3)),
        (-1, (2,), (1,)),
        (3, (2,), (-1,)),
        (0, (-2, -2), (1, 1)),
        (0, (5,), (0,)),
        (0, (2**62, 4), (0, 1)),
        (0, (2**33, 2**33), (0, 0)),
        (0, (2,), (2**62,)),
        (2**70, (0,), (1,)),
        (0, (4,), ()),
        (0, (1,) * 40, (1,) * 40),
    ],
)
def test_tensor_outside_its_storage_is_refused(
    offset: int, size: tuple[int, ...], stride: tuple[int, ...], tmp_path: Path
) -> None:
    with pytest.raises(DalleError, match=r"made\.pt is (damaged|refused)"):
        read_pickle(
            STUB + attributes(w=tensor(offset, integers(*size), integers(*stride))), tmp_path
        )


def test_storage_cut_inside_a_number_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DalleError, match=r"made\.pt is damaged"):
        read_pickle(
            STUB + attributes(w=tensor(0, integers(1), integers(1))),
            tmp_path,
            torch.zeros(7, dtype=torch.int8),
        )


GOOD = text("w") + tensor(0, integers(4), integers(1))
CYCLE = STUB + b"q\x00}(" + GOOD + text("again") + b"h\x00ub"


def bush(depth: int) -> bytes:
    levels = STUB + b"}(" + GOOD + b"ubq\x00"
    return levels + b"".join(
        STUB + b"}(" + text("a") + b"h\x00" + text("b") + b"h\x00ubq\x00" for _ in range(depth)
    )


def crowd(size: int) -> bytes:
    """A module of so many attributes, named as often."""
    member = (
        b"c__torch__\nM\n)\x81}(" + b"".join(text(f"a{i}") + b"N" for i in range(size)) + b"ubq\x00"
    )
    return (
        STUB
        + b"}("
        + text("first")
        + member
        + b"".join(text(f"b{i}") + b"h\x00" for i in range(size))
        + b"ub"
    )


HARMFUL_PICKLES = {
    "cycle": CYCLE,
    "bush of 2**60 leaves": bush(60),
    "crowd of crowds": crowd(20_000),
    "register that holds itself": STUB + b"}q\x00(" + text("_modules") + b"h\x00ub",
    "class that only begins like torch's": b"ctorch.nn.modulesque\nM\n)\x81",
    "function that ends like a class's place": b"cos.dall_e.utils\nsystem\n",
    "class of a module outside the stubs": b"(" + text("module") + b"ctorch\nFloatStorage\nNNtQ",
    "part of a storage": STUB
    + attributes(w=tensor(0, integers(4), integers(1), STORAGE[:-2] + b"K\x01tQ")),
    "attributes of a class": b"c__torch__\nM\n" + attributes(__setstate__=b"N"),
    "attributes of a function": TENSOR + attributes(__defaults__=b")"),
    "attributes of a list": b"]" + attributes(append=b"N"),
    "attributes of a tensor": tensor(0, integers(4), integers(1)) + attributes(data=b"N"),
    "call of an object": STUB + b")R",
    "call of a tensor": tensor(0, integers(4), integers(1)) + b")R",
    "call of a dtype": b"ctorch\nFloatStorage\n)R",
    "call of text": text("os.system") + b")R",
    "wrong number of arguments": TENSOR + b")R",
    "tensor of a stub": STUB + attributes(w=tensor(0, integers(4), integers(1), storage=STUB)),
    "tensor of numbers": STUB + attributes(w=tensor(0, b"K\x04", b"K\x01")),
    "size of text": STUB + attributes(w=tensor(0, b"(" + text("4") + b"t", integers(1))),
    "storage that is missing": STUB
    + attributes(w=tensor(0, integers(1), integers(1), STORAGE.replace(b"0X", b"7X"))),
    "storage outside the archive": (
        b"(" + text("storage") + b"ctorch\nFloatStorage\n" + text("../../etc/passwd") + b"NK\x04tQ"
    ).join([STUB + b"}" + text("w") + TENSOR + b"(", b"K\x00)))tRsb"]),
    "persistent id of text": text("storage") + b"Q",
    "persistent id of another kind": b"("
    + text("module")
    + b"ctorch\nFloatStorage\n"
    + text("0")
    + b"tQ",
    "textual persistent id": b"P0\n",
    "EXT1": b"\x82\x01",
    "EXT4": b"\x84\x01\x00\x00\x00",
    "INST": b"(ios\nsystem\n",
    "OBJ": b"(c__torch__\nM\no",
    "BYTEARRAY8 of 2**62 bytes": b"\x96" + struct.pack("<Q", 2**62),
    "long integer": b"\x8b\x00\x00\x10\x00" + b"9" * 2**20,
    "deep tuple as a key": b"})" + b"\x85" * 10_000 + b"Ns",
    "deep tuple as a result": b")" + b"\x85" * 10_000,
    "deep lists": b"]" * 10**4 + b"a" * (10**4 - 1),
    "only marks": b"(" * 10**4,
    "nothing": b"",
    "pop of nothing": b"t",
    "memo that is empty": b"h\x05",
    "global of lists": b"]]\x93",
    "global with an odd escape": b"ca\\d\nb\n",
    "global that is no ASCII": b"c\xff\xfe\nb\n",
    "text that is no text": b"X\x02\x00\x00\x00\xff\xfe",
    "no module but a list": b"]",
    "no module but a tensor": tensor(0, integers(4), integers(1)),
    "name that never ends": STUB + b"}" + text("n" * 10**5) + GOOD[len(text("w")) :] + b"sb",
}


@pytest.mark.parametrize("kind", HARMFUL_PICKLES)
def test_pickle_that_plays_tricks_ends_in_an_error(
    kind: str, tmp_path: Path, hang_guard: None
) -> None:
    with pytest.raises(DalleError, match=r"made\.pt (is|holds)"):
        read_pickle(HARMFUL_PICKLES[kind], tmp_path)


@pytest.mark.parametrize(
    "state",
    [
        b"}(" + text("__class__") + b"c__torch__\nN\n" + text("__dict__") + b"}" + GOOD + b"ub",
        b"}(" + text("attributes") + b"N" + text("__setstate__") + b"N" + GOOD + b"ub",
        b"}(" + GOOD + text("__reduce__") + b"ctorch.jit._pickle\nbuild_intlist\nub",
        b"}(" + GOOD + b"K\x01N" + b")N" + b"ub",
        b"}r\xff\xff\xff\xff(" + GOOD + b"ub",
        b"N}\x86b}(" + GOOD + b"ub",
    ],
    ids=["class", "own names", "functions", "other keys", "far memo", "slots"],
)
def test_attributes_are_only_ever_names_of_tensors(state: bytes, tmp_path: Path) -> None:
    assert_same(read_pickle(STUB + state, tmp_path), {"w": torch.arange(4.0)})


def test_attributes_given_to_one_object_reach_no_other(tmp_path: Path) -> None:
    child = STUB + attributes(__init__=b"N", attributes=b"N")
    pickled = STUB + b"}(" + text("a") + child + text("b") + STUB + b"}(" + GOOD + b"ubub"
    assert_same(read_pickle(pickled, tmp_path), {"b.w": torch.arange(4.0)})


def test_module_met_twice_is_listed_twice(tmp_path: Path) -> None:
    found = read_pickle(bush(2), tmp_path)
    assert set(found) == {"a.a.w", "a.b.w", "b.a.w", "b.b.w"}
    assert len({tensor.data_ptr() for tensor in found.values()}) == 1
