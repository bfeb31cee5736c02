"""The `onnx/` folder of an export: its discrete VAE for programs without torch."""

from pathlib import Path

from dalle_cli.config import kind_of
from dalle_cli.errors import UsageError
from dalle_cli.interop.graphs.dvae_graphs import check_onnx, write_dvae_graphs
from dalle_cli.loading import load_dvae_encoder
from dalle_cli.storage.atomic import make_folder
from dalle_cli.storage.model_folder import read_model_table
from dalle_cli.storage.run_dir import RunDir, model_dir

WITH_DVAE = ("dvae", "dvae-encoder", "transformer")  # kinds of models


def check_dvae_for_onnx(run: Path) -> None:
    """Raise UsageError for a run without a discrete VAE, and DalleError if a package is missing."""
    kind = kind_of(read_model_table(model_dir(run)))
    if kind not in WITH_DVAE:
        raise UsageError(f"`--onnx` is for discrete VAEs, and {run} is a {kind}", "leave it out")
    check_onnx()


def write_onnx(export: Path) -> None:
    """Write the discrete VAE of an export as ONNX graphs into a folder inside."""
    folder = RunDir(export).onnx
    make_folder(folder)
    write_dvae_graphs(load_dvae_encoder(export), folder)
