"""Foreign checkpoint files: what torch and safetensors write comes back equal; what strangers add to it never runs."""

import io
import os
import pickle
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor, nn

from dalle_cli.errors import DalleError
from dalle_cli.interop.torch_files import MAX_TUPLES, read_tensors

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch.jit is, its files are not


class Tower(nn.Module):
    """Parameters, buffers and plain attributes, in float, half and integers."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3, 4).t())  # not contiguous
        self.register_buffer("mask", torch.tensor([True, False]))
        self.register_buffer("context_length", torch.tensor(77))
        self.norm = nn.BatchNorm1d(3)
        self.steps, self.sizes, self.rates, self.flags = 3, [1, 2], [0.5], [True]
        self.places = {"a": torch.zeros(2)}
        self.extras, self.device = [torch.zeros(2)], torch.device("cpu")

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x @ self.weight)


class Pair(nn.Module):
    """Nested modules, a tied parameter, two buffers in one storage, an empty one."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.blocks = nn.Sequential(Tower(), nn.ReLU(), nn.Linear(3, 4).half(), nn.Linear(4, 2).bfloat16())
        self.tied = self.blocks[0].weight
        both = torch.arange(6, dtype=torch.float64)
        self.register_buffer("first", both[:2])
        self.register_buffer("second", both[2:].view(2, 2))
        self.register_buffer("nothing", torch.zeros(0, 3, dtype=torch.int16))

    def forward(self, x: Tensor) -> Tensor:
        return self.blocks[0](x)


class Payload:
    """An object whose pickle, once believed, leaves a file behind."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, ...]:
        return os.system, (f"touch '{self.marker}'",)


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    return dict(Pair().state_dict())


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The bytes of a TorchScript archive of a Pair."""
    path = tmp_path_factory.mktemp("script") / "pair.pt"
    torch.jit.script(Pair()).save(str(path))
    return path.read_bytes()


def written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=0, check_stride=False)
    assert {type(tensor) for tensor in found.values()} == {Tensor}
    assert not any(tensor.requires_grad for tensor in found.values())


def rezipped(archive: bytes, compressed: str = "", **members: bytes | None) -> bytes:
    """Write an archive anew, with other content where given (its checksum right), or without a member."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(archive)) as old, zipfile.ZipFile(out, "w") as new:
        for name in old.namelist():
            inner = name.partition("/")[2]
            if members.get(inner, b"") is not None:
                kind = zipfile.ZIP_DEFLATED if inner == compressed else zipfile.ZIP_STORED
                new.writestr(name, members.get(inner) or old.read(name), kind)
    return out.getvalue()


def content_of(archive: bytes, inner: str) -> bytes:
    with zipfile.ZipFile(io.BytesIO(archive)) as opened:
        return opened.read(opened.namelist()[0].partition("/")[0] + "/" + inner)


def saved(value: object, **options: object) -> bytes:
    out = io.BytesIO()
    torch.save(value, out, **options)
    return out.getvalue()


def test_scripted_module_comes_back_as_its_state_dict(script: bytes, state: dict[str, Tensor], tmp_path: Path) -> None:
    assert_same(read_tensors(written(tmp_path / "pair.pt", script)), state)


def test_traced_module_comes_back_as_its_state_dict(state: dict[str, Tensor], tmp_path: Path) -> None:
    torch.jit.trace(Pair().eval(), torch.ones(2, 4)).save(str(tmp_path / "pair.pt"))
    found = read_tensors(tmp_path / "pair.pt")
    assert_same({name: found[name] for name in state}, state)


@pytest.mark.parametrize(
    "dtype",
    ["float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool", "complex64"],
)
def test_every_plain_dtype_survives_torchscript(dtype: str, tmp_path: Path) -> None:
    module = nn.Module()
    module.register_buffer("numbers", torch.tensor([0, 1, 1]).to(getattr(torch, dtype)))
    torch.jit.script(module).save(str(tmp_path / "module.pt"))
    assert_same(read_tensors(tmp_path / "module.pt"), dict(module.state_dict()))


@pytest.mark.parametrize("name", ["weights.pt", "weights.safetensors", "weights"])
@pytest.mark.parametrize("kind", ["zip", "legacy", "safetensors", "script"])
def test_content_and_not_the_suffix_says_what_a_file_is(
    kind: str, name: str, script: bytes, state: dict[str, Tensor], tmp_path: Path
) -> None:
    path = tmp_path / name
    if kind == "safetensors":
        save_file({key: tensor.clone().contiguous() for key, tensor in state.items()}, path)
    else:
        path.write_bytes(script if kind == "script" else saved(state, _use_new_zipfile_serialization=kind == "zip"))
    assert_same(read_tensors(path), state)


@pytest.mark.parametrize("is_zip", [True, False])
@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: OrderedDict(state),
        lambda state: {name: nn.Parameter(tensor, False) for name, tensor in state.items()},
        lambda state: {**state, "vocab_size": 49408, 5: torch.zeros(1), "nested": {"a": torch.zeros(1)}},
        lambda state: {**state, "sparse": torch.eye(3).to_sparse(), "meta": torch.empty(3, device="meta")},
        lambda state: {**state, "expanded": torch.zeros(1).expand(10**6, 10**6)},
    ],
)
def test_tensors_are_found_among_other_things(
    wrap: Callable, is_zip: bool, state: dict[str, Tensor], tmp_path: Path
) -> None:
    path = written(tmp_path / "weights.pt", saved(wrap(state), _use_new_zipfile_serialization=is_zip))
    assert_same(read_tensors(path), state)


@pytest.mark.parametrize("is_zip", [True, False])
def test_weights_of_a_training_checkpoint_are_named_as_such(
    is_zip: bool, state: dict[str, Tensor], tmp_path: Path
) -> None:
    checkpoint = {"epoch": 3, "name": "ViT-B-32", "optimizer": {"lr": 0.1}, "state_dict": state}
    path = written(tmp_path / "weights.pt", saved(checkpoint, _use_new_zipfile_serialization=is_zip))
    assert_same(read_tensors(path), {f"state_dict.{name}": tensor for name, tensor in state.items()})


@pytest.mark.parametrize("value", [{}, {"epoch": 1}, [1], torch.ones(1), {"state_dict": {}}])
def test_checkpoint_without_named_tensors_is_told(value: object, tmp_path: Path) -> None:
    with pytest.raises(DalleError, match=r"weights\.pt holds no tensors"):
        read_tensors(written(tmp_path / "weights.pt", saved(value)))


# everywhere that a loader might unpickle
HOSTILE_FILES: dict[str, Callable[[Payload, bytes], bytes]] = {
    "zip.pt": lambda payload, _: saved({"w": torch.ones(1), "x": payload}),
    "renamed.safetensors": lambda payload, _: saved({"w": torch.ones(1), "x": payload}),
    "legacy.pt": lambda payload, _: saved({"x": payload}, _use_new_zipfile_serialization=False),
    "script.pt": lambda payload, script: rezipped(script, **{"data.pkl": pickle.dumps(payload, 2)}),
    "script4.pt": lambda payload, script: rezipped(script, **{"data.pkl": pickle.dumps({"a": [payload]}, 4)}),
    "pickle2.pt": lambda payload, _: pickle.dumps(payload, 2),
    "pickle4.pt": lambda payload, _: pickle.dumps(payload, 4),
    "pickle5.safetensors": lambda payload, _: pickle.dumps([1, {"a": payload}], 5),
}


@pytest.mark.parametrize("name", HOSTILE_FILES)
def test_payload_is_refused_by_name_and_never_runs(name: str, script: bytes, tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    path = written(tmp_path / name, HOSTILE_FILES[name](Payload(marker), script))
    with pytest.raises(DalleError, match=rf"{name} is refused: it asks to run (posix|nt)\.system") as caught:
        read_tensors(path)
    assert not marker.exists() and "safetensors" in caught.value.hint


def test_payload_runs_where_it_is_believed(tmp_path: Path) -> None:
    """Without this, the tests around it would prove nothing."""
    pickle.loads(pickle.dumps(Payload(tmp_path / "marker")))
    assert (tmp_path / "marker").exists()


def test_constants_and_code_of_a_script_are_never_opened(
    script: bytes, state: dict[str, Tensor], tmp_path: Path
) -> None:
    marker = tmp_path / "marker"
    hostile = {"constants.pkl": pickle.dumps(Payload(marker), 2), "code/__torch__.py": b"import os; os.abort()"}
    assert_same(read_tensors(written(tmp_path / "pair.pt", rezipped(script, **hostile))), state)
    assert not marker.exists()


def test_name_of_a_refused_global_is_shown_short_and_harmless(script: bytes, tmp_path: Path) -> None:
    pickled = b"\x80\x02c__builtin__\n\x1b[31meval" + b"x" * 10_000 + b"\n."
    with pytest.raises(DalleError, match=r"asks to run __builtin__\.\ufffd") as caught:
        read_tensors(written(tmp_path / "pair.pt", rezipped(script, **{"data.pkl": pickled})))
    assert len(caught.value.message) < 500 and "\x1b" not in caught.value.message


STUB = b"c__torch__\nM\n)\x81"  # an object of a class of the archive
TENSOR = b"ctorch._utils\n_rebuild_tensor_v2\n"
STORAGE = b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x04tQ"
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
        TENSOR + b"(" + storage + b"\x8a\x09" + offset.to_bytes(9, "little", signed=True) + size + stride + b"\x89NtR"
    )


def read_pickle(pickled: bytes, tmp_path: Path, numbers: Tensor | None = None) -> dict[str, Tensor]:
    """Read a TorchScript archive of one storage, four floats, and this data.pkl."""
    numbers = torch.arange(4.0) if numbers is None else numbers
    with zipfile.ZipFile(tmp_path / "made.pt", "w") as archive:
        archive.writestr("made/data.pkl", b"\x80\x02" + pickled + b".")
        archive.writestr("made/constants.pkl", b"\x80\x02).")
        archive.writestr("made/data/0", numbers.numpy().tobytes())
    return read_tensors(tmp_path / "made.pt")


@pytest.mark.parametrize(
    ("offset", "size", "stride"),
    [(0, (4,), (1,)), (1, (3,), (1,)), (0, (2, 2), (1, 2)), (3, (), ()), (0, (0, 9), (9, 1)), (1, (2,), (2,))],
)
def test_tensor_inside_its_storage_is_what_as_strided_says(
    offset: int, size: tuple[int, ...], stride: tuple[int, ...], tmp_path: Path
) -> None:
    found = read_pickle(STUB + attributes(w=tensor(offset, integers(*size), integers(*stride))), tmp_path)
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
    with pytest.raises(DalleError, match=r"made\.pt is damaged"):
        read_pickle(STUB + attributes(w=tensor(offset, integers(*size), integers(*stride))), tmp_path)


def test_storage_cut_inside_a_number_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DalleError, match=r"made\.pt is damaged"):
        read_pickle(
            STUB + attributes(w=tensor(0, integers(1), integers(1))), tmp_path, torch.zeros(7, dtype=torch.int8)
        )


GOOD = text("w") + tensor(0, integers(4), integers(1))
CYCLE = STUB + b"q\x00}(" + GOOD + text("again") + b"h\x00ub"


def bush(depth: int) -> bytes:
    levels = STUB + b"}(" + GOOD + b"ubq\x00"
    return levels + b"".join(STUB + b"}(" + text("a") + b"h\x00" + text("b") + b"h\x00ubq\x00" for _ in range(depth))


HARMFUL_PICKLES = {
    "cycle": CYCLE,
    "bush of 2**60 leaves": bush(60),
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
    "storage that is missing": STUB + attributes(w=tensor(0, integers(1), integers(1), STORAGE.replace(b"0X", b"7X"))),
    "storage outside the archive": (
        b"(" + text("storage") + b"ctorch\nFloatStorage\n" + text("../../etc/passwd") + b"NK\x04tQ"
    ).join([STUB + b"}" + text("w") + TENSOR + b"(", b"K\x00)))tRsb"]),
    "persistent id of text": text("storage") + b"Q",
    "persistent id of another kind": b"(" + text("module") + b"ctorch\nFloatStorage\n" + text("0") + b"tQ",
    "textual persistent id": b"P0\n",
    "EXT1": b"\x82\x01",
    "EXT4": b"\x84\x01\x00\x00\x00",
    "INST": b"(ios\nsystem\n",
    "OBJ": b"(c__torch__\nM\no",
    "BYTEARRAY8 of 2**62 bytes": b"\x96" + struct.pack("<Q", 2**62),
    "long integer": b"\x8b\x00\x00\x10\x00" + b"9" * 2**20,
    "deep tuple as a key": b"})" + b"\x85" * 500_000 + b"Ns",
    "deep tuple as a result": b")" + b"\x85" * 500_000,
    "deep lists": b"]" * 10**5 + b"a" * (10**5 - 1),
    "only marks": b"(" * 10**5,
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
def test_pickle_that_plays_tricks_ends_in_an_error(kind: str, tmp_path: Path, hang_guard: None) -> None:
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


@pytest.mark.parametrize("inner", ["data.pkl", "data/0"])
@pytest.mark.parametrize("kind", ["script", "zip"])
def test_compressed_member_is_refused(kind: str, inner: str, script: bytes, tmp_path: Path) -> None:
    archive = script if kind == "script" else saved({"w": torch.zeros(10)})
    path = written(tmp_path / "bomb.pt", rezipped(archive, compressed=inner, **{inner: bytes(10**6)}))
    with pytest.raises(DalleError, match=rf"bomb\.pt is refused: \w+/{inner} in it is compressed"):
        read_tensors(path)


@pytest.mark.parametrize("kind", ["script", "zip"])
def test_members_that_claim_more_than_the_file_holds_are_refused(kind: str, script: bytes, tmp_path: Path) -> None:
    """Two entries of the directory that lead to the same bytes."""
    archive = bytearray(script if kind == "script" else saved({"w": torch.zeros(10)}))
    with zipfile.ZipFile(io.BytesIO(archive)) as opened:
        entry = archive.index(b"PK\x01\x02")
        for member in opened.infolist():
            if member.filename.endswith("/data/0"):
                struct.pack_into("<II", archive, entry + 20, 2**30, 2**30)
            entry = archive.find(b"PK\x01\x02", entry + 4)
    with pytest.raises(DalleError, match=r"bomb\.pt is refused: the files in it are larger than it"):
        read_tensors(written(tmp_path / "bomb.pt", bytes(archive)))


@pytest.mark.parametrize("kind", ["zip", "legacy"])
def test_tuples_too_deep_for_torch_never_reach_it(kind: str, tmp_path: Path) -> None:
    """torch.load dies of a stack overflow where such a tuple is the key of a dict."""
    deep = b"\x80\x02})" + b"\x85" * (20 * MAX_TUPLES) + b"Ns."
    head, tail = saved({"w": 1}, _use_new_zipfile_serialization=False).split(pickle.dumps({"w": 1}, 2))
    content = rezipped(saved({}), **{"data.pkl": deep}) if kind == "zip" else head + deep + tail
    with pytest.raises(DalleError, match=r"deep\.pt is damaged .* tuples"):
        read_tensors(written(tmp_path / "deep.pt", content))


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"\x80", b"\x80\x02", b"PK\x03\x04", b"<!DOCTYPE html>", b"12345678{", b"\xff" * 8 + b"{}", bytes(64)],
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
        path = written(tmp_path / "w.safetensors", struct.pack("<Q", len(header)) + header.encode() + bytes(6))
        with pytest.raises(DalleError, match=r"w\.safetensors is damaged"):
            read_tensors(path)


def test_path_that_is_no_file_is_told_with_the_reason(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for name, reason in (("missing.pt", "cannot be read: No such file"), ("", "is not a file"), ("pipe", "is not a")):
        with pytest.raises(DalleError, match=reason):
            read_tensors(tmp_path / name)


@pytest.fixture(scope="module")
def files(script: bytes, state: dict[str, Tensor], tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    path = tmp_path_factory.mktemp("files") / "weights.safetensors"
    save_file({key: tensor.clone().contiguous() for key, tensor in state.items()}, path)
    legacy = saved(state, _use_new_zipfile_serialization=False)
    return {"script": script, "zip": saved(state), "legacy": legacy, "safetensors": path.read_bytes()}


@pytest.mark.parametrize("kind", ["script", "zip", "legacy", "safetensors"])
def test_truncated_file_is_told_wherever_it_ends(kind: str, files: dict[str, bytes], tmp_path: Path) -> None:
    content = files[kind]
    for sixteenth in range(16):
        with pytest.raises(DalleError, match=r"part\.pt is (damaged or )?not a checkpoint"):
            read_tensors(written(tmp_path / "part.pt", content[: len(content) * sixteenth // 16]))


def flipped(content: bytes, flips: list[tuple[float, int]]) -> bytes:
    changed = bytearray(content)
    for place, mask in flips:
        changed[int(place * len(changed))] ^= mask
    return bytes(changed)


FLIPS = st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(1, 255)), min_size=1, max_size=4)


@given(flips=FLIPS, kind=st.sampled_from(["whole", "pickle"]))
@settings(max_examples=200, deadline=None)
def test_flipped_bytes_of_a_script_give_tensors_or_an_error(
    flips: list[tuple[float, int]], kind: str, script: bytes, tmp_path_factory: pytest.TempPathFactory
) -> None:
    if kind == "whole":
        content = flipped(script, flips)
    else:  # past the checksums
        content = rezipped(script, **{"data.pkl": flipped(content_of(script, "data.pkl"), flips)})
    path = written(tmp_path_factory.getbasetemp() / "flipped.pt", content)
    try:
        tensors = read_tensors(path)
    except DalleError as error:
        assert error.message.startswith(str(path))
    else:
        assert all(type(tensor) is Tensor and tensor.sum() is not None for tensor in tensors.values())
