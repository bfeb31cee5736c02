"""From a run, an export or a public CLIP to a module ready for inference; nothing is run that lies there."""

import hashlib
import json
from functools import partial
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from dalle_cli.config import (
    ClipModelTable,
    DVAEEncoderTable,
    DVAEModelTable,
    TrainedClipTable,
    TrainedTransformerTable,
    TransformerModelTable,
    kind_of,
)
from dalle_cli.data.clip_tokenizer import (
    MERGE_LISTS,
    ClipTokenizer,
    find_clip_vocabulary,
    own_clip_tokenizer,
    read_clip_vocabulary,
)
from dalle_cli.data.tokenizer import Tokenizer
from dalle_cli.errors import DalleError
from dalle_cli.interop.clip_checkpoints import read_public_clip
from dalle_cli.interop.hub import fetch_from_hub
from dalle_cli.models.clip import PIXEL_MEAN, PIXEL_STD, Clip, Tower
from dalle_cli.models.dvae import DiscreteVAE, DVAEEncoder
from dalle_cli.models.transformer import Transformer
from dalle_cli.storage.model_folder import check_fit, load_module, read_model_table, read_weights
from dalle_cli.storage.run_dir import CONFIG, WEIGHTS, RunDir, dvae_model_dir, model_dir
from dalle_cli.untrusted import printable

N_SPECIALS = 2  # start and end of text, which CLIP has beside a tokenizer's ids
ANOTHER_CLIP = "the vocabulary belongs to another CLIP"


def build_dvae(model: DVAEModelTable) -> DiscreteVAE:
    """Make a discrete VAE with fresh weights."""
    return DiscreteVAE(**model.model_dump())


def build_dvae_encoder(model: DVAEEncoderTable) -> DVAEEncoder:
    """Make a discrete VAE's encoder alone with fresh weights."""
    return DVAEEncoder(**model.model_dump())


def build_transformer(model: TransformerModelTable, text_vocab_size: int) -> Transformer:
    """Make a transformer with fresh weights, for as many text tokens as were learnt."""
    return Transformer(**{**model.model_dump(), "text_vocab_size": text_vocab_size})


def trained_clip_table(model: ClipModelTable, text_vocab_size: int) -> TrainedClipTable:
    """Describe a CLIP of ours, that reads captions between a start and an end after so many text tokens."""
    return TrainedClipTable(
        **model.model_dump(),
        text_vocab_size=text_vocab_size + N_SPECIALS,
        end_of_text=None,
        pixel_mean=list(PIXEL_MEAN),
        pixel_std=list(PIXEL_STD),
    )


def build_clip(model: TrainedClipTable) -> Clip:
    """Make a CLIP with fresh weights."""
    sizes = model.model_dump()
    return Clip(**{**sizes, "vision": Tower(**sizes["vision"]), "text": Tower(**sizes["text"])})


def load_dvae(path: Path | str) -> DiscreteVAE:
    """Load the discrete VAE of a dVAE run or a model folder, or a transformer run's own copy.

    Raises DalleError where there is none or it is damaged.
    """
    folder = dvae_model_dir(Path(path))
    model = read_model_table(folder)
    if isinstance(model, DVAEModelTable):
        return load_module(partial(build_dvae, model), folder)
    if isinstance(model, DVAEEncoderTable):
        raise DalleError(
            f"{path} holds only the encoder of a dvae: its decoder is missing, so it can't draw",
            "import the decoder with it: `dalle import dvae ENCODER DECODER --run DIR`",
        )
    raise DalleError(f"{path} holds a {kind_of(model)}, not a dvae")


def load_dvae_encoder(path: Path | str) -> DVAEEncoder:
    """Load what makes image tokens: a discrete VAE, or an encoder imported alone; raises like `load_dvae`."""
    folder = dvae_model_dir(Path(path))
    model = read_model_table(folder)
    return (
        load_module(partial(build_dvae_encoder, model), folder)
        if type(model) is DVAEEncoderTable
        else load_dvae(path)
    )


def dvae_checksum(path: Path | str) -> str:
    """Hash the encoder's weights, on which image tokens depend; raises DalleError where there are none."""
    digest = hashlib.sha256()
    with safe_open(dvae_model_dir(Path(path)) / WEIGHTS, "np") as file:
        for name in sorted(name for name in file.keys() if name.startswith("encoder.")):  # noqa: SIM118  no mapping
            digest.update(name.encode())
            digest.update(file.get_tensor(name))
    return digest.hexdigest()


def load_transformer(path: Path | str) -> Transformer:
    """Load the transformer of a run, or of a model folder; raises DalleError likewise."""
    folder = model_dir(Path(path))
    model = read_model_table(folder)
    if not isinstance(model, TrainedTransformerTable):
        raise DalleError(f"{path} holds a {kind_of(model)}, not a transformer")
    return load_module(partial(build_transformer, model, model.text_vocab_size), folder)


def load_clip(path: Path | str) -> Clip:
    """Load the CLIP of a `train-clip` run or its model folder, or a public checkpoint: a file, a folder, a hub's name.

    Raises DalleError where there is none, it is damaged, of a kind not supported, or wants something run.
    """
    place = find_clip(path)
    if not is_own_model(place):
        public = read_public_clip(place)
        return _assign(public.table, public.weights, place)
    folder = model_dir(place)
    model = read_model_table(folder)
    if not isinstance(model, TrainedClipTable):
        raise DalleError(f"{path} holds a {kind_of(model)}, not a clip")
    return _assign(model, read_weights(folder / WEIGHTS), folder / WEIGHTS)


def load_clip_tokenizer(
    path: Path | str, clip: Clip, vocabulary: Path | None = None
) -> ClipTokenizer:
    """Load what turns captions into the tokens of a CLIP at a path: its own files, or a vocabulary named.

    Raises DalleError where it has none, or they don't belong together.
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
            f"{vocabulary or path} has {tokenizer.vocab_size} tokens, the CLIP of {path} knows {clip.text_vocab_size}",
            ANOTHER_CLIP,
        )
    return tokenizer


def find_vocabulary(place: Path) -> Path:
    """Find the file that says how the captions of a CLIP on disk are read; raises DalleError where there is none."""
    for run in (RunDir(place), RunDir(place.parent)):  # a run, or the model folder in it
        if run.tokenizer.is_file():
            return run.tokenizer
    found = find_clip_vocabulary(place if place.is_dir() else place.parent)
    if found is None:
        raise DalleError(
            f"{place} has no vocabulary to read captions with",
            f"put {MERGE_LISTS[0]} beside it, or give it with `--tokenizer`",
        )
    return found


def _read_vocabulary(file: Path) -> ClipTokenizer:
    """Read a public vocabulary, or the merges of a tokenizer of ours."""
    is_own = file.name == RunDir(file.parent).tokenizer.name
    return own_clip_tokenizer(Tokenizer.load(file)) if is_own else read_clip_vocabulary(file)


def find_clip(path: Path | str) -> Path:
    """Find a CLIP on disk, or fetch it by its hub's name; raises DalleError where there is none."""
    place = Path(path)
    if place.exists():
        return place
    if (
        place.parent != Path() and place.parent.exists()
    ):  # what the hub calls an owner is a folder here
        raise DalleError(
            f"no such CLIP: {printable(str(path))}", f"there is {place.parent}, but not that in it"
        )
    return fetch_from_hub(str(path))


def is_own_model(place: Path) -> bool:
    """Whether a place is a run or a model folder of ours; others keep other things in a file of the same name."""
    if not place.is_dir() or place.joinpath("model").is_dir():
        return place.is_dir()
    try:
        return "kind" in json.loads((place / CONFIG).read_bytes())
    except (OSError, ValueError, RecursionError, TypeError):
        return RunDir(place).is_run


def load_tokenizer(run: RunDir) -> Tokenizer:
    """Load a run's own copy of its tokenizer."""
    return Tokenizer.load(run.tokenizer)


def _assign(model: TrainedClipTable, weights: dict[str, Tensor], source: Path) -> Clip:
    """Make a CLIP of weights, in fp32 as they are; what does not fit is neither copied nor converted first."""
    try:
        with torch.device("meta"):
            clip = build_clip(model)
        expected = {name: list(tensor.shape) for name, tensor in clip.state_dict().items()}
        check_fit(expected, {name: list(tensor.shape) for name, tensor in weights.items()}, source)
        clip.load_state_dict(
            {name: _in_fp32(name, weights[name], source) for name in expected}, assign=True
        )
    except (
        RuntimeError,
        TypeError,
        ValueError,
    ) as error:  # torch has all three for sizes that no number holds
        reason = str(error).partition("\n")[0]
        raise DalleError(f"{source} does not hold a CLIP: {reason}") from error
    return clip.eval().requires_grad_(False)


def _in_fp32(name: str, weight: Tensor, source: Path) -> Tensor:
    if not weight.is_floating_point():
        kind = str(weight.dtype).removeprefix("torch.")
        raise DalleError(
            f"{source} does not hold a CLIP: {name} is of type {kind}, not of a floating-point type"
        )
    return weight.float().contiguous()
