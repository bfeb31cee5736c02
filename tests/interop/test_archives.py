"""Torch's archives are read back equal, and none makes its reader use more memory than its size."""

import io
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
from torch import Tensor, nn

from dalle_cli.errors import DalleError
from dalle_cli.interop.torch_files import read_tensors

pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning"
)  # torch.jit is, its files are not


def written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=0, check_stride=False)
    assert {type(tensor) for tensor in found.values()} == {Tensor}
    assert not any(tensor.requires_grad for tensor in found.values())


def content_of(archive: bytes, inner: str) -> bytes:
    with zipfile.ZipFile(io.BytesIO(archive)) as opened:
        return opened.read(opened.namelist()[0].partition("/")[0] + "/" + inner)


def test_scripted_module_comes_back_as_its_state_dict(
    script: bytes, state: dict[str, Tensor], tmp_path: Path
) -> None:
    assert_same(read_tensors(written(tmp_path / "pair.pt", script)), state)


@pytest.mark.parametrize("archive", [True, False], ids=["archive", "chain"])
def test_pickled_module_comes_back_as_its_state_dict(
    archive: bool, saved: Callable, tmp_path: Path
) -> None:
    inner = nn.Sequential(
        OrderedDict(conv=nn.Conv2d(2, 3, 1), norm=nn.BatchNorm2d(3), up=nn.Upsample(scale_factor=2))
    )
    module = nn.Sequential(inner, nn.ReLU(), nn.MaxPool2d(2), nn.Identity(), inner)
    path = written(tmp_path / "module.pt", saved(module, archive))
    assert_same(read_tensors(path), dict(module.state_dict()))


def test_traced_module_comes_back_as_its_state_dict(
    pair: nn.Module, state: dict[str, Tensor], tmp_path: Path
) -> None:
    torch.jit.trace(pair, torch.ones(2, 4)).save(str(tmp_path / "pair.pt"))
    found = read_tensors(tmp_path / "pair.pt")
    assert_same({name: found[name] for name in state}, state)


@pytest.mark.parametrize(
    "dtype",
    [
        "float64",
        "float32",
        "float16",
        "bfloat16",
        "int64",
        "int32",
        "int16",
        "int8",
        "uint8",
        "bool",
        "complex64",
    ],
)
def test_every_plain_dtype_survives_torchscript(dtype: str, tmp_path: Path) -> None:
    module = nn.Module()
    module.register_buffer("numbers", torch.tensor([0, 1, 1]).to(getattr(torch, dtype)))
    torch.jit.script(module).save(str(tmp_path / "module.pt"))
    assert_same(read_tensors(tmp_path / "module.pt"), dict(module.state_dict()))


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: nn.Linear(2, 2).state_dict() | state,  # with torch's notes on versions
        lambda state: OrderedDict(state),
        lambda state: {name: nn.Parameter(tensor, False) for name, tensor in state.items()},
        lambda state: {
            **state,
            "vocab_size": 49408,
            5: torch.zeros(1),
            "nested": {"a": torch.zeros(1)},
        },
    ],
)
def test_tensors_are_found_among_other_things(
    wrap: Callable, state: dict[str, Tensor], tmp_path: Path
) -> None:
    torch.save(wrap(state), tmp_path / "weights.pt")
    found = read_tensors(tmp_path / "weights.pt")
    assert_same({name: found[name] for name in state}, state)
    assert found.keys() - state.keys() <= {"weight", "bias"}


def test_weights_of_a_training_checkpoint_are_named_as_such(
    pair: nn.Module, state: dict[str, Tensor], tmp_path: Path
) -> None:
    layer = nn.Linear(2, 2)
    optimizer = torch.optim.AdamW(layer.parameters())
    layer(torch.ones(2)).sum().backward()
    optimizer.step()
    names = {
        "epoch": 3,
        "name": "ViT-B-32",
        "optimizer": optimizer.state_dict(),
        "state_dict": pair.state_dict(),
    }
    torch.save(names, tmp_path / "weights.pt")
    assert_same(
        read_tensors(tmp_path / "weights.pt"), {f"state_dict.{name}": state[name] for name in state}
    )


@pytest.mark.parametrize(
    "value", [{}, {"epoch": 1}, [1], torch.ones(1), {"state_dict": {}}], ids=repr
)
def test_checkpoint_without_named_tensors_is_told(value: object, tmp_path: Path) -> None:
    torch.save(value, tmp_path / "weights.pt")
    with pytest.raises(DalleError, match=r"weights\.pt holds no tensors"):
        read_tensors(tmp_path / "weights.pt")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (
            torch.eye(3).to_sparse(),
            r"refused: it asks to run torch\._utils\._rebuild_sparse_tensor",
        ),
        (
            torch.empty(3, device="meta"),
            r"refused: it asks to run torch\._utils\._rebuild_meta_tensor",
        ),
        (
            torch.zeros(1).expand(10**6, 10**6),
            "refused: the tensors in it are larger than the file",
        ),
        (
            torch.zeros(1).expand(2, 2),
            "damaged .* a tensor extends beyond the 1 elements of its storage",
        ),
    ],
    ids=["sparse", "meta", "expanded", "expanded a little"],
)
def test_tensor_without_numbers_of_its_own_is_refused(
    value: Tensor, message: str, tmp_path: Path
) -> None:
    torch.save({"weight": torch.zeros(2), "odd": value}, tmp_path / "weights.pt")
    with pytest.raises(DalleError, match=message):
        read_tensors(tmp_path / "weights.pt")


def test_tensors_that_share_a_storage_may_not_outgrow_the_file(tmp_path: Path) -> None:
    """Else a small file would grow by its number of names wherever each gets memory of its own."""
    storage, path = torch.zeros(2**16), tmp_path / "weights.pt"
    torch.save({"whole": storage, "part": storage[:100]}, path)
    assert read_tensors(path).keys() == {"whole", "part"}
    torch.save({f"x{number}": storage for number in range(300)}, path)
    with pytest.raises(
        DalleError, match=r"weights\.pt is refused: the tensors in it are larger than the file"
    ):
        read_tensors(path)


def test_constants_and_code_of_a_script_are_never_opened(
    payload: object, rezipped: Callable, script: bytes, state: dict[str, Tensor], tmp_path: Path
) -> None:
    hostile = {
        "constants.pkl": pickle.dumps(payload, 2),
        "code/__torch__.py": b"import os; os.abort()",
    }
    assert_same(read_tensors(written(tmp_path / "pair.pt", rezipped(script, **hostile))), state)
    assert not payload.marker.exists()


@pytest.mark.parametrize("inner", ["data.pkl", "data/0"])
@pytest.mark.parametrize("kind", ["script", "zip"])
def test_compressed_member_is_refused(
    kind: str, inner: str, script: bytes, saved: Callable, rezipped: Callable, tmp_path: Path
) -> None:
    archive = script if kind == "script" else saved({"w": torch.zeros(10)})
    path = written(
        tmp_path / "bomb.pt", rezipped(archive, compressed=inner, **{inner: bytes(10**6)})
    )
    with pytest.raises(DalleError, match=rf"bomb\.pt is refused: \w+/{inner} in it is compressed"):
        read_tensors(path)


@pytest.mark.parametrize("kind", ["script", "zip"])
def test_members_that_claim_more_than_the_file_holds_are_refused(
    kind: str, script: bytes, saved: Callable, tmp_path: Path
) -> None:
    """Two entries of the directory that lead to the same bytes."""
    archive = bytearray(script if kind == "script" else saved({"w": torch.zeros(10)}))
    with zipfile.ZipFile(io.BytesIO(archive)) as opened:
        entry = archive.index(b"PK\x01\x02")
        for member in opened.infolist():
            if member.filename.endswith("/data/0"):
                struct.pack_into("<II", archive, entry + 20, 2**30, 2**30)
            entry = archive.find(b"PK\x01\x02", entry + 4)
    with pytest.raises(
        DalleError, match=r"bomb\.pt is refused: the files in it are larger than the archive"
    ):
        read_tensors(written(tmp_path / "bomb.pt", bytes(archive)))


def flipped(content: bytes, flips: list[tuple[float, int]]) -> bytes:
    changed = bytearray(content)
    for place, mask in flips:
        changed[int(place * len(changed))] ^= mask
    return bytes(changed)


FLIPS = st.lists(
    st.tuples(st.floats(0, 1, exclude_max=True), st.integers(1, 255)), min_size=1, max_size=4
)


@pytest.mark.thorough
@given(flips=FLIPS, kind=st.sampled_from(["whole", "pickle"]))
@settings(max_examples=200, deadline=None)
def test_flipped_bytes_of_a_script_give_tensors_or_an_error(
    flips: list[tuple[float, int]],
    kind: str,
    script: bytes,
    rezipped: Callable,
    tmp_path_factory: pytest.TempPathFactory,
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
        assert all(
            type(tensor) is Tensor and tensor.sum() is not None for tensor in tensors.values()
        )
