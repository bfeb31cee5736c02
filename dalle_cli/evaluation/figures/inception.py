"""The Inception network that FID and the Inception Score are defined by.

The network is torch-fidelity's, which computes what the released TensorFlow graph of 2015 does,
its resize to 299 pixels included; this is the only importer of that library. Its weights are those
that torch-fidelity publishes, fetched once, or a file. Either is read as tensors: nothing in it is
run. Axes: B batch, S side of a picture.
"""

import hashlib
import io
import re
import urllib.request
from dataclasses import dataclass
from http.client import HTTPException
from importlib import metadata, util
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dalle_cli.errors import DalleError, printable
from dalle_cli.interop.torch_files import read_tensors
from dalle_cli.storage.atomic import make_folder, write_file
from dalle_cli.storage.run_dir import NO_CACHE, cache_folder

WIDTH = 2048  # of the features, after the last pooling
INPUT_SIDE = 299  # pixels, to which the network scales what it is given
LAYERS = ["2048", "logits_unbiased"]  # of FID, and of the Inception Score
INSTALL = "install it: `pip install 'dalle-cli[evaluate]'`"
NO_NETWORK = "where there is no network, name a file of them: `--inception FILE`"
FETCH_SECONDS = 60  # without an answer
MOST_BYTES = 2**28  # the published file has 95 MiB


@dataclass(frozen=True)
class Inception:
    """The network on a device.

    checksum  SHA-256 of the weights' file
    library   the version of torch-fidelity
    """

    network: nn.Module
    device: torch.device
    checksum: str
    library: str

    @torch.inference_mode()
    def __call__(self, squares: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Compute features fp32 [B, 2048] and logits fp32 [B, 1008] of uint8 [B, S, S, 3]."""
        pixels = torch.from_numpy(squares).to(self.device).permute(0, 3, 1, 2)  # [B, 3, S, S]
        features, logits = self.network(pixels.contiguous())
        return features.cpu().numpy(), logits.cpu().numpy()


def has_inception_library() -> bool:
    """Return whether torch-fidelity is installed."""
    return util.find_spec("torch_fidelity") is not None


def load_inception(file: Path | None, device: torch.device) -> Inception:
    """Load the network with the weights of a file, or with the published ones.

    file  of tensors: safetensors, or what torch.save wrote; None: the published weights

    Raises DalleError where the library is missing, weights cannot be fetched, or they are not this
    network's.
    """
    if not has_inception_library():
        raise DalleError("FID needs torch-fidelity, which is not installed", INSTALL)
    path = file or _fetch_weights()
    network = _build(path)

    with path.open("rb") as opened:
        checksum = hashlib.file_digest(opened, "sha256").hexdigest()
    return Inception(network.to(device), device, checksum, metadata.version("torch-fidelity"))


def _library() -> Any:
    """Import the module of the network; with a torchvision for another torch, that fails."""
    try:
        from torch_fidelity import feature_extractor_inceptionv3
    except (ImportError, RuntimeError) as error:
        raise DalleError(f"torch-fidelity cannot be imported: {error}", INSTALL) from error
    return feature_extractor_inceptionv3


def _build(path: Path) -> nn.Module:
    # its constructor loads a file by torch.load; what it gets are tensors that were read before
    buffer = io.BytesIO()
    torch.save(_in_memory_of_their_own(read_tensors(path)), buffer)
    buffer.seek(0)
    try:
        return _library().FeatureExtractorInceptionV3(
            "inception-v3-compat", LAYERS, feature_extractor_weights_path=buffer
        )
    except RuntimeError as error:
        reason = printable(str(error).strip().splitlines()[-1].strip())
        message = f"{printable(str(path))} does not hold Inception's weights: {reason}"
        raise DalleError(message, "they are those that torch-fidelity publishes") from error


def _in_memory_of_their_own(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in tensors.items()}


def _fetch_weights() -> Path:
    """Return the published weights, from the user's cache folder or from the network."""
    address = _library().URL_INCEPTION_V3
    cache = cache_folder()
    if cache is None:
        raise DalleError(NO_CACHE, NO_NETWORK)
    path = cache / "inception" / address.rpartition("/")[2]
    if path.is_file():
        return path

    try:
        with urllib.request.urlopen(address, timeout=FETCH_SECONDS) as answer:
            content = answer.read(MOST_BYTES)
    except (OSError, HTTPException) as error:
        raise DalleError(f"cannot fetch Inception's weights: {error}", NO_NETWORK) from error

    # the name ends with the first digits of the checksum, by torch's convention
    stated = re.search(r"-([0-9a-f]{8})\.\w+$", path.name)
    if stated is None or not hashlib.sha256(content).hexdigest().startswith(stated[1]):
        raise DalleError("Inception's weights did not arrive as they were published", NO_NETWORK)
    make_folder(path.parent)
    write_file(path, content)
    return path
