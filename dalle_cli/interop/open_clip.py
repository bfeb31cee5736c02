"""Reading OpenAI's files, others in that layout, and open_clip's folders.

Sizes follow from the shapes of the weights; the rest is in open_clip's `open_clip_config.json`, and
without that file it is assumed to be as in OpenAI's models. The activation, which no weight shows,
then follows from the name of the file, or is assumed, and that is said.
"""

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field
from torch import Tensor

from dalle_cli.config import Positive, TowerTable, TrainedClipTable
from dalle_cli.errors import DalleError, printable
from dalle_cli.interop.clip_names import NOT_WEIGHTS, TRAINING_CHECKPOINT, from_openai
from dalle_cli.interop.hugging_face import HF_CONFIG
from dalle_cli.interop.public_clip import ForeignTable, PublicClip, find_only_weights, read_json
from dalle_cli.interop.torch_files import read_tensors
from dalle_cli.models.clip import PIXEL_MEAN, PIXEL_STD, Activation

OPEN_CLIP_CONFIG = "open_clip_config.json"
OPEN_CLIP_WEIGHTS = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
ANY_WEIGHTS = ("*.safetensors", "*.pt", "*.pth", "*.bin")
HEAD_WIDTH = 64  # in every released model
# What open_clip's released models were trained on is in the names of their files
OPEN_CLIP_DATA = ("laion", "datacomp", "commonpool")
RESNET = ("visual.layer1.", "visual.attnpool.")

Nothing = Annotated[dict[str, Any], Field(max_length=0)]


class _Tower(ForeignTable):
    """Settings of a tower that do not follow from the shapes of its weights.

    Here and below, keys that a file leaves out have the library's defaults.
    """

    norm_kwargs: Nothing | None = None
    act_kwargs: Nothing | None = None


class _Vision(_Tower):
    head_width: Positive = HEAD_WIDTH
    pool_type: Literal["tok"] = "tok"


class _Text(_Tower):
    heads: Positive = 8
    pool_type: Literal["argmax"] = "argmax"
    no_causal_mask: Literal[False] = False


class _Model(ForeignTable):
    quick_gelu: bool = False
    vision_cfg: _Vision
    text_cfg: _Text


class _Pixels(ForeignTable):
    mean: list[float] = Field(default=list(PIXEL_MEAN))
    std: list[float] = Field(default=list(PIXEL_STD))
    interpolation: Literal["bicubic"] = "bicubic"
    resize_mode: Literal["shortest"] = "shortest"


class _Config(ForeignTable):
    model_cfg: _Model
    preprocess_cfg: _Pixels = _Pixels()


def read_open_clip(path: Path) -> PublicClip:
    """Read a checkpoint file, or a folder with one.

    The config applies to a folder and to files with open_clip's names, not to any other file next
    to it. Raises DalleError or ValidationError if it is not a CLIP or is not supported.
    """
    file = _weights_in(path) if path.is_dir() else path
    tensors = read_tensors(file)
    weights = from_openai(tensors)
    _check_weights(file, weights)

    config_file = file.with_name(OPEN_CLIP_CONFIG)
    if not config_file.is_file() or not (path.is_dir() or file.name in OPEN_CLIP_WEIGHTS):
        activation, assumption = _likely_activation(file, tensors)
        return PublicClip(_table_of(weights, activation, None), weights, assumption)

    config = _Config.model_validate(read_json(config_file))
    activation = "quick_gelu" if config.model_cfg.quick_gelu else "gelu"
    return PublicClip(_table_of(weights, activation, config), weights)


def _weights_in(folder: Path) -> Path:
    named = [folder / name for name in OPEN_CLIP_WEIGHTS if (folder / name).is_file()]
    return named[0] if named else find_only_weights(folder, ANY_WEIGHTS)


def _likely_activation(file: Path, tensors: Mapping[str, Tensor]) -> tuple[Activation, str]:
    """Return the activation by the names of file and tensors, and what was assumed, or "".

    open_clip's models have GELU unless their name says otherwise, OpenAI's QuickGELU.
    """
    name = file.name.lower()
    if "quickgelu" in name:
        return "quick_gelu", ""
    if name.startswith("open_clip") or any(data in name for data in OPEN_CLIP_DATA):
        return "gelu", ""
    if any(number in tensors for number in NOT_WEIGHTS):
        return "quick_gelu", ""

    unstated = f"{printable(str(file))} does not state its activation, and is taken to have"
    if any(name.startswith(TRAINING_CHECKPOINT) for name in tensors):
        hint = "if it has QuickGELU, put `quickgelu` into its name"
        return "gelu", f"{unstated} exact GELU, as checkpoints of open_clip's training: {hint}"
    hint = "if it has exact GELU, let its name begin with `open_clip`"
    return "quick_gelu", f"{unstated} QuickGELU, as OpenAI's models: {hint}"


def _check_weights(file: Path, weights: Mapping[str, Tensor]) -> None:
    shown = printable(str(file))
    if any(name.startswith(RESNET) for name in weights):
        raise DalleError(
            f"{shown} is not supported: its vision tower is a ResNet", "take one of the ViT models"
        )
    if any(name.startswith("text_model.") for name in weights):
        raise DalleError(
            f"{shown} does not contain its sizes", f"give its folder, where {HF_CONFIG} has them"
        )

    matrices = ("visual.positional_embedding", "text_projection", "token_embedding.weight")
    needed = ("visual.conv1.weight", *matrices, "positional_embedding")
    missing = [name for name in needed if name not in weights]
    if missing:
        raise DalleError(f"{shown} is not a CLIP with a ViT: it has no `{missing[0]}`")

    are_matrices = all(weights[name].ndim == 2 for name in matrices)
    if not are_matrices or weights["visual.conv1.weight"].ndim != 4:
        raise DalleError(f"{shown} is not a CLIP with a ViT: its weights have other shapes")


def _table_of(
    weights: Mapping[str, Tensor], activation: Activation, config: _Config | None
) -> TrainedClipTable:
    """Infer sizes from the shapes of the weights, as OpenAI does, and the heads from any config."""
    vision_width, _, _, patch_size = weights["visual.conv1.weight"].shape
    text_vocab_size, text_width = weights["token_embedding.weight"].shape
    vision_heads, text_heads = vision_width // HEAD_WIDTH, text_width // HEAD_WIDTH
    pixels = _Pixels()
    if config is not None:
        model, pixels = config.model_cfg, config.preprocess_cfg
        vision_heads, text_heads = vision_width // model.vision_cfg.head_width, model.text_cfg.heads

    return TrainedClipTable(
        image_size=patch_size * math.isqrt(len(weights["visual.positional_embedding"]) - 1),
        patch_size=patch_size,
        text_len=len(weights["positional_embedding"]),
        d_embed=weights["text_projection"].shape[1],
        activation=activation,
        vision=_tower_table(
            weights, "visual.transformer", d_model=vision_width, n_heads=vision_heads
        ),
        text=_tower_table(weights, "transformer", d_model=text_width, n_heads=text_heads),
        text_vocab_size=text_vocab_size,
        end_of_text=None,
        pixel_mean=pixels.mean,
        pixel_std=pixels.std,
    )


def _tower_table(
    weights: Mapping[str, Tensor], prefix: str, *, d_model: int, n_heads: int
) -> TowerTable:
    pattern = re.compile(rf"{re.escape(prefix)}\.resblocks\.\d+\.attn\.in_proj_weight$")
    bias = weights.get(f"{prefix}.resblocks.0.mlp.c_fc.bias")
    return TowerTable(
        n_layers=sum(pattern.match(name) is not None for name in weights),
        d_model=d_model,
        n_heads=max(n_heads, 1),
        d_mlp=4 * d_model if bias is None else len(bias),
    )
