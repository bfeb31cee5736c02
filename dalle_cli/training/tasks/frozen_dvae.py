"""The frozen discrete VAE of a transformer's run: does it fit, and the run's copy of it.

A transformer learns the image tokens of one dVAE (Ramesh et al. 2021, section 2.2), and its run
keeps a copy, so that the run alone can generate pictures.
"""

import filecmp
from collections.abc import Iterable
from pathlib import Path

import torch

from dalle_cli.config import TransformerModelTable
from dalle_cli.data.sources import Source, TokenSource, encoded_folder
from dalle_cli.data.token_shards import AGAIN
from dalle_cli.errors import DalleError, UsageError
from dalle_cli.loading import dvae_checksum, load_dvae
from dalle_cli.models.dvae import DiscreteVAE
from dalle_cli.runtime.precision import Precision, apply_precision
from dalle_cli.storage.atomic import copy_file, make_folder
from dalle_cli.storage.run_dir import CONFIG, WEIGHTS, RunDir, dvae_model_dir

ANOTHER_DVAE = (
    "give the dVAE that encoded with `--dvae`, or encode the pictures again: `dalle data encode`"
)


def load_frozen_dvae(
    path: Path, model: TransformerModelTable, sources: Iterable[Source]
) -> DiscreteVAE:
    """Load a dVAE, and check it against a transformer and the sources that hold tokens.

    Raises DalleError where it does not fit, or tokens are damaged.
    """
    dvae = load_dvae(path)
    _check_model(dvae, path, model)
    encoded = map(encoded_folder, sources)
    tokens = [source for source in encoded if isinstance(source, TokenSource)]
    for source in dict.fromkeys(tokens):  # the one that both train and are held out comes twice
        _check_encoder(dvae, path, source)
        for shard, reason in source.damaged():
            raise DalleError(f"{shard} is damaged: it {reason}", AGAIN)
    return dvae


def _check_model(dvae: DiscreteVAE, path: Path, model: TransformerModelTable) -> None:
    """Raise DalleError unless the recipe's transformer reads the image tokens of the dVAE."""
    grid_size, vocab_size = dvae.grid_size, dvae.vocab_size
    if (grid_size, vocab_size) != (model.grid_size, model.image_vocab_size):
        changes = f"`--set model.grid_size={grid_size} --set model.image_vocab_size={vocab_size}`"
        raise DalleError(
            f"{path} makes {_tokens(grid_size, vocab_size)}, "
            f"the recipe expects {_tokens(model.grid_size, model.image_vocab_size)}",
            f"{changes}, or another dVAE",
        )


def _check_encoder(dvae: DiscreteVAE, path: Path, source: TokenSource) -> None:
    """Raise UsageError unless a folder of tokens was encoded by the dVAE."""
    encoding = source.encoding
    given = _tokens(dvae.grid_size, dvae.vocab_size)
    encoded = _tokens(encoding.grid_size, encoding.vocab_size)
    if given != encoded:
        raise UsageError(f"{source.name} holds {encoded}, {path} makes {given}", ANOTHER_DVAE)
    if dvae_checksum(path) != encoding.dvae:
        raise UsageError(f"{source.name} was encoded by another dVAE than {path}", ANOTHER_DVAE)


def _tokens(grid_size: int, vocab_size: int) -> str:
    return f"{grid_size}x{grid_size} tokens out of {vocab_size}"


def prepare_for_inference(dvae: DiscreteVAE, *, precision: Precision, device: torch.device) -> None:
    """Move the dVAE to a device and make it compute in a precision, in place."""
    dvae.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]  # no stub
    apply_precision(dvae, precision, device)


def check_kept_dvae(folder: RunDir, path: Path) -> None:
    """Raise DalleError where the run keeps a copy of another dVAE than the one at `path`."""
    kept, given = folder.dvae / WEIGHTS, dvae_model_dir(path) / WEIGHTS
    if kept.is_file() and not filecmp.cmp(kept, given, shallow=False):
        hint = f"`--dvae {folder.root}` uses the run's copy"
        raise DalleError(f"{path} is not the dVAE this run began with", hint)


def keep_dvae(folder: RunDir, path: Path) -> None:
    """Copy the dVAE at `path` into the run, unless the run has a copy."""
    if (folder.dvae / WEIGHTS).is_file():
        return
    given = dvae_model_dir(path)
    make_folder(folder.dvae)
    for name in (CONFIG, WEIGHTS):
        copy_file(given / name, folder.dvae / name)
