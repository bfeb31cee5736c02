"""Loads what a transformer's run holds: the transformer, its discrete VAE and its tokenizer."""

import hashlib
from pathlib import Path
from typing import NamedTuple

from safetensors import safe_open

from dalle_cli.config import DVAEEncoderTable
from dalle_cli.data.text.known_words import KnownWords
from dalle_cli.data.tokenizer import Tokenizer
from dalle_cli.errors import DalleError
from dalle_cli.loading.kinds import build_dvae, build_dvae_encoder, build_trained_transformer
from dalle_cli.models.dvae import DiscreteVAE, DVAEEncoder
from dalle_cli.models.transformer import Transformer
from dalle_cli.storage.checkpoint_folder import find_saved_weights
from dalle_cli.storage.integrity.checksums import load_checksummed_json
from dalle_cli.storage.model_folder import read_model, read_model_table
from dalle_cli.storage.run_dir import WEIGHTS, RunDir, dalle_paths, dvae_model_dir, model_dir
from dalle_cli.storage.run_record import RECORD_SCHEMA
from dalle_cli.storage.shipped import resolve_run


def load_dvae(path: Path | str) -> DiscreteVAE:
    """Load the discrete VAE of a dVAE's run, a model folder, the copy in a transformer's run, or a
    shipped model.

    Raises DalleError if there is none, it lacks its decoder, or it is damaged.
    """
    folder = dvae_model_dir(Path(resolve_run(str(path))))
    return read_model(folder, "dvae", build_dvae)


def load_dvae_encoder(path: Path | str) -> DVAEEncoder:
    """Load the part that computes image tokens: a discrete VAE, or an encoder imported alone.

    Raises DalleError like `load_dvae`.
    """
    folder = dvae_model_dir(Path(path))
    if type(read_model_table(folder)) is DVAEEncoderTable:
        return read_model(folder, "dvae-encoder", build_dvae_encoder)
    return load_dvae(path)


def dvae_checksum(path: Path | str) -> str:
    """Hash the weights of a dVAE's encoder, on which its image tokens depend.

    Raises DalleError if there are none.
    """
    digest = hashlib.sha256()
    with safe_open(dvae_model_dir(Path(path)) / WEIGHTS, "np") as file:
        names = file.keys()
        for name in sorted(name for name in names if name.startswith("encoder.")):
            digest.update(name.encode())
            digest.update(file.get_tensor(name))
    return digest.hexdigest()


def load_transformer(path: Path | str) -> Transformer:
    """Load the transformer of a run, a model folder or a shipped model.

    Raises DalleError if there is none.
    """
    folder = model_dir(Path(resolve_run(str(path))), "transformer")
    return read_model(folder, "transformer", build_trained_transformer)


def load_tokenizer(run: RunDir) -> Tokenizer:
    """Load a run's copy of its tokenizer."""
    return Tokenizer.load(run.tokenizer)


class DalleParts(NamedTuple):
    """Everything between a caption and its picture, as a transformer's run holds it.

    checksum         SHA-256 of the files of all three parts
    caption_dropout  how often training replaced a caption by the empty one; None if the recipe is
                     missing
    step             of the checkpoint that the transformer comes from; None: the run's model
    known_words      of the training captions; None if the run has not recorded them
    """

    transformer: Transformer
    dvae: DiscreteVAE
    tokenizer: Tokenizer
    checksum: str
    caption_dropout: float | None
    step: int | None
    known_words: KnownWords | None


def load_dalle(run: Path, checkpoint: str | None = None) -> DalleParts:
    """Load a transformer's run or export with all its parts.

    checkpoint  whose weights the transformer gets, see `find_saved_weights`; None: the run's model

    Raises DalleError if a part is missing or does not fit the others.
    """
    paths = dalle_paths(run)
    saved = find_saved_weights(RunDir(run), checkpoint) if checkpoint else None
    transformer = read_model(
        paths.transformer,
        "transformer",
        build_trained_transformer,
        weights=saved.files if saved else None,
    )
    if paths.dvae == paths.transformer:
        hint = f"put a copy of the dVAE's model folder into {RunDir(run).dvae}"
        raise DalleError(f"{run} lacks its copy of the dVAE", hint)
    dvae = read_model(paths.dvae, "dvae", build_dvae)
    tokenizer = Tokenizer.load(paths.tokenizer)
    check_parts_match(transformer, dvae, tokenizer, run=run)

    digest = hashlib.sha256()
    weights = saved.files if saved else [paths.transformer / WEIGHTS]
    for path in (*weights, paths.dvae / WEIGHTS, paths.tokenizer):
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())

    try:
        record = load_checksummed_json(paths.recipe, since=RECORD_SCHEMA)
        caption_dropout = record["recipe"]["loss"]["caption_dropout"]
    except (OSError, ValueError, KeyError, TypeError, DalleError):
        caption_dropout = None
    words = RunDir(run).known_words
    return DalleParts(
        transformer,
        dvae,
        tokenizer,
        checksum=digest.hexdigest(),
        caption_dropout=caption_dropout,
        step=saved.step if saved else None,
        known_words=KnownWords.load(words) if words.is_file() else None,
    )


def check_parts_match(
    transformer: Transformer, dvae: DiscreteVAE, tokenizer: Tokenizer, *, run: Path
) -> None:
    """Raise DalleError unless the transformer's sizes are those of its tokenizer and dVAE."""
    sizes = (
        ("text vocabulary", transformer.text_vocab_size, tokenizer.vocab_size),
        ("token grid", transformer.grid_size, dvae.grid_size),
        ("image vocabulary", transformer.image_vocab_size, dvae.vocab_size),
    )
    for name, expected, found in sizes:
        if expected != found:
            mismatch = f"{name} of {expected} and of {found}"
            raise DalleError(f"the parts of {run} don't belong together: {mismatch}")
