"""The discrete VAE as two ONNX graphs, by torch's exporter; the size of a batch, B, is free.

encoder.onnx  images float32 [B, 3, H, W] in [0, 1] -> image_tokens int64 [B, g*g], without noise
decoder.onnx  image_tokens int64 [B, g*g] -> images float32 [B, 3, H, W] in [0, 1]
"""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

from dalle_cli.errors import DalleError
from dalle_cli.models.dvae import DiscreteVAE, DVAEEncoder
from dalle_cli.runtime.packages import is_installed
from dalle_cli.storage.atomic import write_file

PACKAGES = ("onnx", "onnxscript")  # that torch's exporter needs
IMAGES, TOKENS = "images", "image_tokens"  # names of inputs and outputs
ENCODER, DECODER = "encoder.onnx", "decoder.onnx"
EXAMPLES = 2  # pictures of the batch that is traced; a single one would be taken for a constant


class _Encode(nn.Module):
    """Encoding, as a module's only method."""

    def __init__(self, dvae: DVAEEncoder) -> None:
        super().__init__()
        self.dvae = dvae

    def forward(self, images: Tensor) -> Tensor:
        return self.dvae.image_tokens(images)


class _Decode(nn.Module):
    """Decoding, as a module's only method."""

    def __init__(self, dvae: DiscreteVAE) -> None:
        super().__init__()
        self.dvae = dvae

    def forward(self, image_tokens: Tensor) -> Tensor:
        return self.dvae.decode(image_tokens)


def check_onnx() -> None:
    """Raise DalleError if a package that writes ONNX is missing."""
    missing = [package for package in PACKAGES if not is_installed(package)]
    if missing:
        raise DalleError(
            f"ONNX can't be written: missing {', '.join(missing)}",
            f"`pip install {' '.join(missing)}`",
        )


def write_dvae_graphs(dvae: DVAEEncoder, folder: Path) -> None:
    """Write the graph of the encoder, and that of the decoder if there is one, into a folder.

    dvae  on the CPU, in fp32
    """
    for name, graph in _graphs(dvae):
        write_file(folder / name, graph)


def _graphs(dvae: DVAEEncoder) -> Iterator[tuple[str, bytes]]:
    images = torch.zeros(EXAMPLES, 3, dvae.image_size, dvae.image_size)  # [B, 3, H, W]
    yield ENCODER, _export(_Encode(dvae), images, source=IMAGES, target=TOKENS)
    if isinstance(dvae, DiscreteVAE):
        tokens = torch.zeros(EXAMPLES, dvae.grid_size**2, dtype=torch.int64)  # [B, g*g]
        yield DECODER, _export(_Decode(dvae), tokens, source=TOKENS, target=IMAGES)


def _export(module: nn.Module, example: Tensor, *, source: str, target: str) -> bytes:
    """Trace a module with an input and an output; returns the graph with its weights alone."""
    with _silent_exporter():
        program = torch.onnx.export(
            module.eval(),
            (example,),
            input_names=[source],
            output_names=[target],
            dynamic_shapes={source: {0: torch.export.Dim("batch")}},
            verbose=False,
        )
    assert program is not None  # it is None for the old exporter alone
    model = program.model_proto
    graph = model.graph
    # the exporter's notes, with the paths of files on this machine among them
    for noted in (model, graph, *graph.node, *graph.value_info, *graph.input, *graph.output):
        del noted.metadata_props[:]
    return model.SerializeToString()


@contextmanager
def _silent_exporter() -> Iterator[None]:
    """Hide the exporter's warnings of its own parts, and of a missing torchvision, in a `with`."""
    log = logging.getLogger("torch.onnx")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(level)
