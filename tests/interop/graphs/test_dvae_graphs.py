"""The discrete VAE as ONNX: what onnxruntime makes of the graphs equals what torch makes."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from dalle_cli.errors import DalleError
from dalle_cli.interop.graphs.dvae_graphs import check_onnx, write_dvae_graphs
from dalle_cli.models.dvae import DiscreteVAE, DVAEEncoder

SIZES = {"image_size": 16, "vocab_size": 24, "n_hidden": 8, "n_groups": 3, "blocks_per_group": 1}

pytestmark = pytest.mark.filterwarnings("ignore")  # of the exporter


@pytest.fixture(scope="module")
def dvae() -> DiscreteVAE:
    torch.manual_seed(0)
    return DiscreteVAE(**SIZES, n_init=6).eval().requires_grad_(False)


@pytest.fixture(scope="module")
def graphs(dvae: DiscreteVAE, tmp_path_factory: pytest.TempPathFactory) -> Path:
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package, reason="its packages are an extra")
    folder = tmp_path_factory.mktemp("graphs")
    write_dvae_graphs(dvae, folder)
    return folder


@pytest.fixture
def runs(graphs: Path) -> Callable:
    import onnxruntime

    def run(file: str, **inputs: np.ndarray) -> dict[str, np.ndarray]:
        session = onnxruntime.InferenceSession(graphs / file, providers=["CPUExecutionProvider"])
        names = [output.name for output in session.get_outputs()]
        return dict(zip(names, session.run(names, inputs), strict=True))

    return run


@pytest.mark.parametrize("batch_size", [1, 2, 5])
def test_encoder_gives_the_same_tokens(batch_size: int, dvae: DiscreteVAE, runs: Callable) -> None:
    images = torch.rand(batch_size, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    found = runs("encoder.onnx", images=images.numpy())
    assert found["image_tokens"].dtype == np.int64
    expected = dvae.image_tokens(images)
    best = dvae.codebook_logits(images).flatten(2).topk(2, dim=1).values  # [B, 2, g*g]
    is_clear = best[:, 0] - best[:, 1] > 1e-4  # rounding decides the others
    assert is_clear.float().mean() > 0.9
    assert np.array_equal(found["image_tokens"][is_clear], expected[is_clear])


@pytest.mark.parametrize("batch_size", [1, 2, 5])
def test_decoder_gives_the_same_pictures(
    batch_size: int, dvae: DiscreteVAE, runs: Callable
) -> None:
    tokens = torch.randint(24, (batch_size, 16), generator=torch.Generator().manual_seed(2))
    found = runs("decoder.onnx", image_tokens=tokens.numpy())
    assert found["images"].dtype == np.float32
    np.testing.assert_allclose(found["images"], dvae.decode(tokens).numpy(), atol=1e-5)


def test_each_graph_holds_its_own_weights_alone(graphs: Path, dvae: DiscreteVAE) -> None:
    n_bytes = 4 * sum(parameter.numel() for parameter in dvae.parameters())
    sizes = [path.stat().st_size for path in sorted(graphs.iterdir())]
    assert [path.name for path in sorted(graphs.iterdir())] == ["decoder.onnx", "encoder.onnx"]
    assert all(size < 0.8 * n_bytes + 50_000 for size in sizes)


def test_graphs_name_no_file_of_this_machine(graphs: Path) -> None:
    for path in graphs.iterdir():
        content = path.read_bytes()
        assert b".py" not in content and str(Path(torch.__file__).parent).encode() not in content


@pytest.mark.thorough
def test_encoder_alone_has_no_decoder(tmp_path: Path, graphs: Path) -> None:
    torch.manual_seed(0)
    write_dvae_graphs(DVAEEncoder(**SIZES).eval().requires_grad_(False), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["encoder.onnx"]


def test_missing_packages_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dalle_cli.interop.graphs.dvae_graphs.is_installed", lambda name: False)
    with pytest.raises(DalleError, match="missing onnx, onnxscript") as failure:
        check_onnx()
    assert failure.value.hint == "`pip install onnx onnxscript`"
