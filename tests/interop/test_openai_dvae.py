"""OpenAI's discrete VAE: every name and shape, whatever the container; anything else is named."""

import os
import pickle
import sys
import types
from collections.abc import Callable
from pathlib import Path

import pytest
import released_dvae
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from dalle_cli.config import DVAEEncoderTable, DVAEModelTable
from dalle_cli.errors import DalleError
from dalle_cli.interop import openai_dvae
from dalle_cli.interop.openai_dvae import read_openai_dvae
from dalle_cli.models.dvae import DiscreteVAE

SIZES = {"image_size": 256, "vocab_size": 24, "n_hidden": 8, "n_groups": 4, "blocks_per_group": 2}
State = dict[str, Tensor]


@pytest.fixture(scope="module")
def encoder() -> nn.Module:
    torch.manual_seed(0)
    return released_dvae.Encoder(n_hid=8, vocab_size=24)


@pytest.fixture(scope="module")
def decoder() -> nn.Module:
    torch.manual_seed(1)
    return released_dvae.Decoder(n_hid=8, vocab_size=24, n_init=6)


@pytest.fixture
def files(encoder: nn.Module, decoder: nn.Module, tmp_path: Path) -> tuple[Path, Path]:
    """Both halves as pickled modules."""
    encoder_file = released_dvae.pickle_module(encoder, tmp_path / "encoder.pkl")
    return encoder_file, released_dvae.pickle_module(decoder, tmp_path / "decoder.pkl")


def saved(state: State, path: Path) -> Path:
    torch.save(state, path)
    return path


def renamed_as_flava_does(state: State) -> State:
    names = {}
    for name in state:
        new = name.replace("res_path.", "res_path.path.")
        for number in range(1, 5):
            new = new.replace(f"group_{number}.", f"group_{number}.group.")
        names[name] = new[:-1] + {"w": "weight", "b": "bias"}[new[-1]]
    return {names[name]: tensor for name, tensor in state.items()}


WRITERS = {
    "pickled module": lambda module, path: released_dvae.pickle_module(module, path),
    "pickled before archives": lambda module, path: released_dvae.pickle_module(
        module, path, archive=False
    ),
    "state dict": lambda module, path: saved(module.state_dict(), path),
    "half precision": lambda module, path: saved(
        {n: t.half() for n, t in module.state_dict().items()}, path
    ),
    "safetensors": lambda module, path: save_file(module.state_dict(), path),
    "FLAVA's names": lambda module, path: saved(renamed_as_flava_does(module.state_dict()), path),
}


@pytest.mark.parametrize("kind", WRITERS)
def test_every_weight_arrives_in_fp32_whatever_the_container(
    kind: str, encoder: nn.Module, decoder: nn.Module, tmp_path: Path
) -> None:
    paths = tmp_path / "encoder", tmp_path / "decoder"
    for module, path in zip((encoder, decoder), paths, strict=True):
        WRITERS[kind](module, path)
    public = read_openai_dvae(*paths)
    assert public.table == DVAEModelTable(**SIZES, n_init=6)
    given = {"encoder": encoder.state_dict(), "decoder": decoder.state_dict()}
    expected = {
        name: given[name.partition(".")[0]][openai_dvae._openai_name(name)]
        for name in public.weights
    }
    if kind == "half precision":
        expected = {name: tensor.half().float() for name, tensor in expected.items()}
    torch.testing.assert_close(public.weights, expected, rtol=0, atol=0)
    assert len(expected) == 74 + 76


def test_encoder_alone_gives_an_encoder(files: tuple[Path, Path]) -> None:
    public = read_openai_dvae(files[0], None)
    assert type(public.table) is DVAEEncoderTable and public.table == DVAEEncoderTable(**SIZES)
    assert len(public.weights) == 74 and all(name.startswith("encoder.") for name in public.weights)


def test_names_and_shapes_at_the_released_size_are_ours() -> None:
    with torch.device("meta"):
        own = DiscreteVAE(256, 8192, n_hidden=256, n_init=128, n_groups=4, blocks_per_group=2)
        halves = {"encoder": released_dvae.Encoder(), "decoder": released_dvae.Decoder()}
    for side, half in halves.items():
        released = {name: tensor.shape for name, tensor in half.state_dict().items()}
        ours = {
            f"{side}.{name}": tensor.shape
            for name, tensor in getattr(own, side).state_dict().items()
        }
        assert {openai_dvae._openai_name(name): shape for name, shape in ours.items()} == released
        assert len(released) == {"encoder": 74, "decoder": 76}[side]
    assert halves["encoder"](torch.empty(1, 3, 256, 256, device="meta")).shape == (1, 8192, 32, 32)


def renamed(state: State) -> State:
    return {
        name.replace("group_2.block_1.", "group_2.block_3."): tensor
        for name, tensor in state.items()
    }


CONV_1 = "blocks.group_3.block_1.res_path.conv_1.w"
CHANGES: dict[str, tuple[Callable[[State], State], str]] = {
    "missing": (
        lambda state: {n: t for n, t in state.items() if n != CONV_1},
        f"`{CONV_1}` is missing",
    ),
    "extra": (
        lambda state: {**state, "blocks.mean": torch.ones(1)},
        "`blocks.mean` is not expected",
    ),
    "reshaped": (
        lambda state: {**state, CONV_1: torch.ones(8, 16, 1, 1)},
        rf"`{CONV_1}` is \[8, 16, 1, 1\] instead",
    ),
    "renamed": (renamed, r"`blocks\.group_2\.block_1\.id_path\.b` is missing.* and \d+ more"),
    "integers": (
        lambda state: {**state, CONV_1: state[CONV_1].int()},
        f"`{CONV_1}` is of type int32",
    ),
    "no input": (
        lambda state: {n: t for n, t in state.items() if "input" not in n},
        "no convolution `blocks.input.w`",
    ),
    "flat output": (
        lambda s: {**s, "blocks.output.conv.w": torch.ones(3)},
        "no convolution `blocks.output.conv.w`",
    ),
    "odd width": (
        lambda state: {**state, "blocks.input.w": torch.ones(6, 3, 7, 7)},
        "its weights have odd shapes",
    ),
    "endless codes": (
        lambda state: {**state, "blocks.output.conv.w": torch.empty(2**62, 0, 1, 1)},
        "its weights have odd shapes",
    ),
    "control characters": (
        lambda state: {**state, "a\x1b[31m": torch.ones(1)},
        "`a\ufffd\\[31m` is not expected",
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_file_that_does_not_fit_is_refused_by_what_does_not(
    change: str, encoder: nn.Module, files: tuple[Path, Path], tmp_path: Path
) -> None:
    alter, message = CHANGES[change]
    path = saved(alter(dict(encoder.state_dict())), tmp_path / "other.pkl")
    with pytest.raises(
        DalleError, match=rf"other\.pkl does not hold OpenAI's encoder: .*{message}"
    ):
        read_openai_dvae(path, files[1])


def test_halves_of_different_models_are_refused(files: tuple[Path, Path], tmp_path: Path) -> None:
    other = released_dvae.pickle_module(
        released_dvae.Decoder(8, vocab_size=25, n_init=6), tmp_path / "other.pkl"
    )
    message = r"other\.pkl .* `blocks\.input\.w` is \[6, 25, 1, 1\] instead of \[6, 24, 1, 1\]"
    with pytest.raises(DalleError, match=message):
        read_openai_dvae(files[0], other)


def test_halves_given_in_the_wrong_order_are_told(files: tuple[Path, Path]) -> None:
    with pytest.raises(
        DalleError, match=r"decoder\.pkl does not hold OpenAI's encoder: .* kernel of 1x1"
    ) as caught:
        read_openai_dvae(files[1], files[0])
    assert "the encoder's file comes first" in caught.value.hint


class Believed:
    """An object whose pickle asks for a call."""

    def __init__(self, function: Callable, *arguments: object) -> None:
        self.asked = function, arguments

    def __reduce__(self) -> tuple[object, ...]:
        return self.asked


class Stranger(nn.Module):
    """A class that no released file has."""

    __module__ = "dall_e_extras"


PAYLOADS: dict[str, tuple[Callable[[str], object], str]] = {
    "os.system": (lambda marker: Believed(os.system, f"touch '{marker}'"), r"(posix|nt)\.system"),
    "eval": (lambda marker: Believed(eval, f"open({marker!r}, 'w')"), r"__builtin__\.eval"),
    "open": (lambda marker: Believed(open, marker, "w"), r"(__builtin__|io|_io)\.open"),
    "unknown class": (lambda marker: Stranger(), r"dall_e_extras\.Stranger"),
}


@pytest.mark.parametrize("name", ["encoder.pkl", "encoder.safetensors"])
@pytest.mark.parametrize("container", ["archive", "chain", "bare pickle"])
@pytest.mark.parametrize("kind", PAYLOADS)
def test_module_that_asks_for_more_is_refused_by_name_and_nothing_runs(
    kind: str, container: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make, asked = PAYLOADS[kind]
    module, marker = released_dvae.Encoder(n_hid=4, vocab_size=4), tmp_path / "marker"
    module.blocks.note = make(str(marker))
    extras = types.ModuleType("dall_e_extras")
    extras.Stranger = Stranger
    monkeypatch.setitem(sys.modules, "dall_e_extras", extras)
    if container == "bare pickle":
        (tmp_path / name).write_bytes(pickle.dumps({"note": module.blocks.note}, 2))
    else:
        released_dvae.pickle_module(module, tmp_path / name, archive=container == "archive")
    with pytest.raises(DalleError, match=rf"{name} is refused: it asks to run {asked}$"):
        read_openai_dvae(tmp_path / name, None)
    assert not marker.exists()


@pytest.mark.parametrize("archive", [True, False], ids=["archive", "chain"])
def test_truncated_module_is_told_wherever_it_ends(
    archive: bool, encoder: nn.Module, tmp_path: Path
) -> None:
    content = released_dvae.pickle_module(encoder, tmp_path / "whole.pkl", archive).read_bytes()
    for eighth in range(8):
        (tmp_path / "part.pkl").write_bytes(content[: len(content) * eighth // 8])
        with pytest.raises(DalleError, match=r"part\.pkl is (damaged or )?not a checkpoint"):
            read_openai_dvae(tmp_path / "part.pkl", None)
