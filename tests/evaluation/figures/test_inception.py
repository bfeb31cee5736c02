"""Inception: the figures are torch-fidelity's, and nothing in a file of weights is run."""

import importlib.util
import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fakes_of_pictures import MemoryPictures, random_pictures
from safetensors.torch import save_file

from dalle_cli.errors import DalleError
from dalle_cli.evaluation.figures import inception as inception_module
from dalle_cli.evaluation.figures import sample_figures
from dalle_cli.evaluation.figures.blur import RADII
from dalle_cli.evaluation.figures.inception import Inception, load_inception
from dalle_cli.evaluation.figures.sample_figures import inception_figures

CPU = torch.device("cpu")
N_CLASSES = 1008
GAIN = 6**0.5  # from a variance of 1/3 to one of 2 by the fan-in
EQUAL = 1e-3  # to torch-fidelity's own figures

with_library = pytest.mark.skipif(
    importlib.util.find_spec("torch_fidelity") is None, reason="torch-fidelity is not installed"
)


def random_weights() -> dict[str, torch.Tensor]:
    """Weights that let something of a picture through to the end."""
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    class Fresh(FeatureExtractorInceptionV3):
        def load_state_dict(self, *_: Any) -> None:
            """Keep the fresh weights of the constructor."""

    torch.manual_seed(0)
    nothing = io.BytesIO()
    torch.save({}, nothing)
    nothing.seek(0)
    network = Fresh("inception-v3-compat", ["2048"], feature_extractor_weights_path=nothing)
    return {
        # torch's fresh weights are smaller than what keeps the scale from layer to layer
        name: tensor * GAIN if name.endswith("conv.weight") else tensor
        for name, tensor in network.state_dict().items()
    }


class Pictures(torch.utils.data.Dataset):
    """Pictures as torch-fidelity wants them."""

    def __init__(self, squares: np.ndarray) -> None:
        self.images = torch.from_numpy(squares).permute(0, 3, 1, 2)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> torch.Tensor:
        return self.images[index]


@pytest.fixture(scope="module")
def weights_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("inception") / "weights.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in random_weights().items()}, file)
    return file


def count() -> None:
    """Advance nothing."""


@with_library
@pytest.mark.slow
def test_figures_are_torch_fidelitys_own(weights_file: Path, tmp_path: Path) -> None:
    import torch_fidelity

    pickled = tmp_path / "weights.pth"  # the library reads no safetensors
    torch.save(random_weights(), pickled)
    real, generated = random_pictures(40, 32, seed=0), random_pictures(40, 32, seed=1) // 2
    expected = torch_fidelity.calculate_metrics(
        input1=Pictures(generated),
        input2=Pictures(real),
        isc=True,
        fid=True,
        cuda=False,
        cache=False,
        verbose=False,
        feature_extractor_weights_path=str(pickled),
    )
    network = load_inception(weights_file, CPU)
    found = inception_figures(
        network, MemoryPictures(real), MemoryPictures(generated), advance=count
    )
    fid, score = expected["frechet_inception_distance"], expected["inception_score_mean"]
    assert found["fid/blur_0"] == pytest.approx(fid, rel=EQUAL)
    assert found["inception_score/blur_0"] == pytest.approx(score, rel=EQUAL)
    assert found["inception_score_std/blur_0"] == pytest.approx(
        expected["inception_score_std"], rel=EQUAL, abs=1e-6
    )


@with_library
def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    save_file({"weight": torch.zeros(3)}, tmp_path / "other.safetensors")
    with pytest.raises(DalleError, match=r"does not hold Inception's weights"):
        load_inception(tmp_path / "other.safetensors", CPU)


@with_library
def test_file_that_asks_to_run_something_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "evil.pth"
    torch.save({"fc.weight": Evil(tmp_path / "ran")}, file)
    with pytest.raises(DalleError, match="is refused"):
        load_inception(file, CPU)
    assert not (tmp_path / "ran").exists()


class Evil:
    """A file of this object makes a folder when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable, tuple[str]]:
        return os.mkdir, (str(self.path),)


def test_missing_library_is_named_with_what_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inception_module, "has_inception_library", lambda: False)
    with pytest.raises(DalleError, match="torch-fidelity, which is not installed") as caught:
        load_inception(None, CPU)
    assert "dalle-cli[evaluate]" in caught.value.hint


class PlainNetwork(torch.nn.Module):
    """In Inception's place, features that a test can compute by itself."""

    def forward(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        assert pixels.dtype == torch.uint8 and pixels.is_contiguous()
        generator = torch.Generator().manual_seed(0)
        matrix = torch.randn(pixels[0].numel(), 6, generator=generator) / 100
        few = pixels.flatten(1).float() @ matrix  # [B, 6]
        return few, few.repeat(1, N_CLASSES // 6)


def test_every_radius_has_figures_of_both_sides_blurred_alike(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sample_figures, "WIDTH", 6)
    network = Inception(PlainNetwork(), CPU, checksum="", library="")
    real, generated = random_pictures(50, 16, seed=2), random_pictures(70, 16, seed=3)
    counted: list[int] = []
    found = inception_figures(
        network,
        MemoryPictures(real),
        MemoryPictures(generated),
        advance=lambda: counted.append(1),
    )
    assert len(counted) == 120 and len(found) == 3 * len(RADII)
    fids = [found[f"fid/blur_{radius}"] for radius in RADII]
    assert fids == sorted(fids, reverse=True) and fids[-1] < fids[0] / 10  # blur hides noise
    assert all(np.isfinite(value) for value in found.values())

    same = inception_figures(
        network, MemoryPictures(real), MemoryPictures(real), advance=lambda: None
    )
    assert all(abs(same[f"fid/blur_{radius}"]) < 1e-3 for radius in RADII)
