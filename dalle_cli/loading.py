"""Loads models for inference from runs, exports and public CLIPs; nothing in them is executed.

`MODEL_KINDS` has a row for each kind of model that a folder can hold. Loaded modules are frozen, in
evaluation mode, on the CPU and in fp32.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import safe_open
from torch import Tensor, nn

from dalle_cli.config import (
    ClipModelTable,
    ClipRecipe,
    DVAEEncoderTable,
    DVAEModelTable,
    DVAERecipe,
    ModelTable,
    Recipe,
    TrainedClipTable,
    TrainedTransformerTable,
    TransformerModelTable,
    TransformerRecipe,
    kind_of,
)
from dalle_cli.data.clip_tokenizer import (
    MERGE_LISTS,
    ClipTokenizer,
    find_clip_vocabulary,
    own_clip_tokenizer,
    read_clip_vocabulary,
)
from dalle_cli.data.text.known_words import KnownWords
from dalle_cli.data.tokenizer import Tokenizer
from dalle_cli.errors import DalleError, UsageError, printable
from dalle_cli.interop.clip_checkpoints import read_public_clip
from dalle_cli.interop.hub import fetch_from_hub
from dalle_cli.models.clip import PIXEL_MEAN, PIXEL_STD, Clip, Tower
from dalle_cli.models.dvae import DiscreteVAE, DVAEEncoder
from dalle_cli.models.transformer import Transformer
from dalle_cli.storage.checkpoint_folder import find_saved_weights
from dalle_cli.storage.integrity.checksums import load_checksummed_json
from dalle_cli.storage.model_folder import (
    check_floating_point,
    check_shapes_match,
    check_stored_weights,
    read_model,
    read_model_table,
    shapes_of,
)
from dalle_cli.storage.run_dir import (
    CONFIG,
    WEIGHTS,
    RunDir,
    dalle_paths,
    dvae_model_dir,
    model_dir,
    part_of,
)
from dalle_cli.storage.run_record import RECORD_SCHEMA
from dalle_cli.storage.shipped import resolve_run
from dalle_cli.storage.small_files import load_json

N_SPECIAL_TOKENS = 2  # start and end of text, which CLIP adds to a tokenizer's ids
ANOTHER_CLIP = "the vocabulary belongs to another CLIP"


def build_dvae(model: DVAEModelTable) -> DiscreteVAE:
    """Build a discrete VAE with fresh weights."""
    return DiscreteVAE(**model.model_dump())


def build_dvae_encoder(model: DVAEEncoderTable) -> DVAEEncoder:
    """Build the encoder of a discrete VAE, without its decoder, with fresh weights."""
    return DVAEEncoder(**model.model_dump())


def build_transformer(model: TransformerModelTable, text_vocab_size: int) -> Transformer:
    """Build a transformer with fresh weights, for a text vocabulary of the learnt size."""
    return Transformer(**{**model.model_dump(), "text_vocab_size": text_vocab_size})


def build_trained_transformer(model: TrainedTransformerTable) -> Transformer:
    """Build a transformer with fresh weights, of the sizes in its `config.json`."""
    return build_transformer(model, model.text_vocab_size)


def build_clip(model: TrainedClipTable) -> Clip:
    """Build a CLIP with fresh weights."""
    sizes = model.model_dump()
    return Clip(**{**sizes, "vision": Tower(**sizes["vision"]), "text": Tower(**sizes["text"])})


def trained_clip_table(model: ClipModelTable, text_vocab_size: int) -> TrainedClipTable:
    """Return the table of a CLIP that this package trains, for a tokenizer's vocabulary size."""
    return TrainedClipTable(
        **model.model_dump(),
        text_vocab_size=text_vocab_size + N_SPECIAL_TOKENS,
        end_of_text=None,
        pixel_mean=list(PIXEL_MEAN),
        pixel_std=list(PIXEL_STD),
    )


@dataclass(frozen=True)
class ModelKind:
    """A kind of model.

    table      its sizes, as in `config.json`
    build      builds a module with fresh weights from a table
    recipe     the recipe that trains it; None if this package does not train it
    sizes_for  returns the table of the largest model that a recipe allows: a learnt vocabulary may
               turn out smaller
    """

    table: type[ModelTable]
    build: Callable[[Any], nn.Module]
    recipe: type[Recipe] | None = None
    sizes_for: Callable[[Any], ModelTable] | None = None


MODEL_KINDS = {
    "dvae": ModelKind(DVAEModelTable, build_dvae, DVAERecipe, lambda recipe: recipe.model),
    "dvae-encoder": ModelKind(DVAEEncoderTable, build_dvae_encoder),
    "transformer": ModelKind(
        TrainedTransformerTable,
        build_trained_transformer,
        TransformerRecipe,
        lambda recipe: TrainedTransformerTable(
            **recipe.model.model_dump(), text_vocab_size=recipe.tokenizer.vocab_size
        ),
    ),
    "clip": ModelKind(
        TrainedClipTable,
        build_clip,
        ClipRecipe,
        lambda recipe: trained_clip_table(recipe.model, recipe.tokenizer.vocab_size),
    ),
}


def build_model(table: ModelTable) -> nn.Module:
    """Build the model that a table describes, with fresh weights."""
    return MODEL_KINDS[kind_of(table)].build(table)


def largest_table(recipe: Recipe) -> ModelTable:
    """Return the table of the model that a recipe trains, with the largest vocabulary it allows."""
    sizes_for = MODEL_KINDS[recipe.kind].sizes_for
    assert sizes_for is not None, recipe.kind
    return sizes_for(recipe)


def build_largest_model(recipe: Recipe) -> nn.Module:
    """Build the largest model that a recipe allows, with fresh weights."""
    return MODEL_KINDS[recipe.kind].build(largest_table(recipe))


def check_model(folder: Path) -> ModelTable:
    """Check that a model folder is whole and its weights are those of its config.

    Returns the model's sizes. Raises DalleError naming the file that is damaged.
    """
    return check_stored_weights(folder, build_model)


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


def load_clip(path: Path | str) -> Clip:
    """Load a CLIP: a `train-clip` run, an export, a model folder, a shipped model, or a public one.

    path  a public checkpoint may be a file, a folder or a name on the hub

    Raises DalleError if there is none, it is damaged, its kind is not supported, or it asks to run
    code.
    """
    return _load_clip(find_clip(resolve_run(str(path))))[0]


def _load_clip(path: Path) -> tuple[Clip, str]:
    """Load a CLIP, and what had to be assumed of it, or ""."""
    if _is_run_or_model(path):
        return read_model(model_dir(path, "clip"), "clip", build_clip), ""
    public = read_public_clip(path)
    return _assign_weights(public.table, public.weights, path), public.assumption


class ClipParts(NamedTuple):
    """A CLIP with the tokenizer that its captions need, and the tokenizer's file.

    assumption  what had to be assumed of a public checkpoint, for users to read, or ""
    """

    clip: Clip
    tokenizer: ClipTokenizer
    vocabulary: Path
    assumption: str


def load_clip_parts(path: Path | str, vocabulary: Path | None = None) -> ClipParts:
    """Load a CLIP like `load_clip`, and its tokenizer like `load_clip_tokenizer`."""
    local_path = find_clip(path)
    clip, assumption = _load_clip(local_path)
    file = vocabulary or find_vocabulary(local_path)
    return ClipParts(clip, load_clip_tokenizer(local_path, clip, file), file, assumption)


def load_clip_tokenizer(
    path: Path | str, clip: Clip, vocabulary: Path | None = None
) -> ClipTokenizer:
    """Load the tokenizer of a CLIP from its path, or from a vocabulary file.

    Raises DalleError if there is none, or it does not belong to the CLIP.
    """
    tokenizer = _read_vocabulary(vocabulary or find_vocabulary(find_clip(path)))
    end_of_text = clip.text_vocab_size - 1 if clip.end_of_text is None else clip.end_of_text

    if tokenizer.end_of_text != end_of_text:
        raise DalleError(
            f"{vocabulary or path} ends captions with token {tokenizer.end_of_text}, "
            f"the CLIP of {path} looks for token {end_of_text}",
            ANOTHER_CLIP,
        )
    if tokenizer.vocab_size > clip.text_vocab_size:
        raise DalleError(
            f"{vocabulary or path} has {tokenizer.vocab_size} tokens, "
            f"the CLIP of {path} knows {clip.text_vocab_size}",
            ANOTHER_CLIP,
        )
    return tokenizer


def find_vocabulary(local_path: Path) -> Path:
    """Return the vocabulary file of a CLIP on disk; raises DalleError if there is none."""
    for run in (RunDir(local_path), RunDir(local_path.parent)):  # a run, or the model folder in it
        if run.tokenizer.is_file():
            return run.tokenizer

    found = find_clip_vocabulary(local_path if local_path.is_dir() else local_path.parent)
    if found is None:
        raise DalleError(
            f"{local_path} has no vocabulary to read captions with",
            f"put {MERGE_LISTS[0]} next to it, or name the file with `--tokenizer`",
        )
    return found


def _read_vocabulary(file: Path) -> ClipTokenizer:
    """Read a public vocabulary, or the merges of a tokenizer that this package learnt."""
    is_own = file.name == RunDir(file.parent).tokenizer.name
    return own_clip_tokenizer(Tokenizer.load(file)) if is_own else read_clip_vocabulary(file)


def find_clip(path: Path | str) -> Path:
    """Return the path of a CLIP on disk, after fetching it from the hub if it is a name there.

    Of an export that brings a CLIP, this is the CLIP's folder.

    Raises DalleError if there is none.
    """
    local_path = Path(path)
    if local_path.exists():
        return part_of(local_path, "clip")
    # an existing folder is not the name of an owner on the hub
    if local_path.parent != Path() and local_path.parent.exists():
        hint = f"{local_path.parent} exists, but has no {printable(local_path.name)}"
        raise UsageError(f"no such CLIP: {printable(str(path))}", hint)
    return fetch_from_hub(str(path))


def _is_run_or_model(local_path: Path) -> bool:
    """Whether a path is a run or a model folder of this package; other tools write configs, too."""
    if not local_path.is_dir():
        return False
    if local_path.joinpath("model").is_dir():
        return True
    try:
        return "kind" in load_json(local_path / CONFIG)
    except (OSError, ValueError, TypeError):
        return RunDir(local_path).is_run


def _assign_weights(model: TrainedClipTable, weights: dict[str, Tensor], source: Path) -> Clip:
    """Build a CLIP from weights, converted to fp32.

    Shapes are checked before anything is copied or converted.
    """
    try:
        with torch.device("meta"):
            clip = build_clip(model)
        expected = shapes_of(clip.state_dict())

        check_shapes_match(expected, shapes_of(weights), source)
        check_floating_point(weights, source)
        in_fp32 = {name: weights[name].float().contiguous() for name in expected}
        clip.load_state_dict(in_fp32, assign=True)
    except (RuntimeError, TypeError, ValueError) as error:
        # torch raises all three for absurd sizes
        reason = str(error).partition("\n")[0]
        raise DalleError(f"{source} does not hold a CLIP: {reason}") from error
    return clip.eval().requires_grad_(False)
