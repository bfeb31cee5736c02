"""Public CLIP checkpoints, a file or a folder: what sizes they have, and their weights under our names.

Three kinds: OpenAI's files and others in that layout, whose sizes follow from the weights' shapes; folders of open_clip
(`open_clip_config.json`), which is the same layout; and folders of a Hugging Face CLIPModel (`config.json`).
Weights come as fp32. Whether every weight fits is for the loader to check.
"""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ValidationError
from torch import Tensor

from dalle_cli.config import Positive, TowerTable, TrainedClipTable
from dalle_cli.errors import DalleError
from dalle_cli.interop.clip_names import TRAINING_CHECKPOINT, from_hugging_face, from_openai
from dalle_cli.interop.torch_files import read_tensors
from dalle_cli.models.clip import PIXEL_MEAN, PIXEL_STD, Activation
from dalle_cli.untrusted import printable

HF_CONFIG, OPEN_CLIP_CONFIG = "config.json", "open_clip_config.json"
HF_PREPROCESSING = ("preprocessor_config.json", "processor_config.json")  # transformers 5 writes the second
HF_WEIGHTS = ("model.safetensors", "model-*-of-*.safetensors", "pytorch_model.bin", "pytorch_model-*-of-*.bin")
OPEN_CLIP_WEIGHTS = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
ANY_WEIGHTS = ("*.safetensors", "*.pt", "*.pth", "*.bin")
HEAD_WIDTH = 64  # of every released model
RESNET = ("visual.layer1.", "visual.attnpool.")


@dataclass(frozen=True)
class PublicClip:
    """A checkpoint of someone else's: its sizes and its weights, fp32, under our names."""

    table: TrainedClipTable
    weights: dict[str, Tensor]


def read_public_clip(path: Path) -> PublicClip:
    """Read a checkpoint file, or a folder that holds one.

    Raises DalleError for what is no CLIP, is damaged, or has a tower or preprocessing that is not supported.
    """
    try:
        if (path / HF_CONFIG).is_file():
            return _read_hugging_face(path)
        return _read_openai(path)
    except ValidationError as error:
        raise DalleError(f"{path} is not a CLIP: {_first_problem(error)}") from error
    except (RuntimeError, TypeError, ValueError) as error:  # of arithmetic with shapes that are no CLIP's
        raise DalleError(f"{path} is not a CLIP: its weights have other shapes") from error


def _first_problem(error: ValidationError) -> str:
    """Name the first key that is wrong, and what it says where only few values are right."""
    first = error.errors()[0]
    found = f", not {printable(repr(first['input'])[:80])}" if first["type"] == "literal_error" else ""
    return f"`{'.'.join(map(str, first['loc']))}`: {first['msg']}{found}"


class _Model(BaseModel, strict=True):
    """A part of someone else's JSON: what is not named here is ignored."""


class _HuggingFaceTower(_Model):
    hidden_act: Literal["quick_gelu", "gelu"] = "quick_gelu"
    layer_norm_eps: float = 1e-5


class _HuggingFaceText(_HuggingFaceTower):
    """The library's defaults stand for what a published file leaves out."""

    hidden_size: int = 512
    intermediate_size: int = 2048
    num_hidden_layers: int = 12
    num_attention_heads: int = 8
    max_position_embeddings: int = 77
    vocab_size: int = 49408
    eos_token_id: int | None = 49407


class _HuggingFaceVision(_HuggingFaceTower):
    hidden_size: int = 768
    intermediate_size: int = 3072
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    image_size: int = 224
    patch_size: int = 32


class _HuggingFaceConfig(_Model):
    model_type: Literal["clip"]
    projection_dim: int = 512
    text_config: dict[str, Any] | None = None
    text_config_dict: dict[str, Any] | None = None  # in older files; it goes before the other
    vision_config: dict[str, Any] | None = None
    vision_config_dict: dict[str, Any] | None = None


class _HuggingFacePixels(_Model):
    image_mean: list[float] = list(PIXEL_MEAN)
    image_std: list[float] = list(PIXEL_STD)
    resample: Literal[3] = 3  # Pillow's number for bicubic


def _read_hugging_face(folder: Path) -> PublicClip:
    config = _HuggingFaceConfig.model_validate(_read_json(folder / HF_CONFIG))
    text = _HuggingFaceText.model_validate({**(config.text_config or {}), **(config.text_config_dict or {})})
    vision = _HuggingFaceVision.model_validate({**(config.vision_config or {}), **(config.vision_config_dict or {})})
    _check_hugging_face(folder, text, vision)
    pixels = _hugging_face_pixels(folder)
    table = TrainedClipTable(
        image_size=vision.image_size,
        patch_size=vision.patch_size,
        text_len=text.max_position_embeddings,
        embed_dim=config.projection_dim,
        activation=text.hidden_act,
        vision=_hugging_face_tower(vision),
        text=_hugging_face_tower(text),
        text_vocab_size=text.vocab_size,
        end_of_text=None if text.eos_token_id == 2 else text.eos_token_id,  # 2 was a mistake that means the largest id
        pixel_mean=pixels.image_mean,
        pixel_std=pixels.image_std,
    )
    tensors = {name: tensor for file in _weights_of(folder, HF_WEIGHTS) for name, tensor in read_tensors(file).items()}
    return PublicClip(table, _to_fp32(from_hugging_face(tensors)))


def _hugging_face_pixels(folder: Path) -> _HuggingFacePixels:
    files = [folder / name for name in HF_PREPROCESSING if (folder / name).is_file()]
    settings = _read_json(files[0]) if files else {}
    is_nested = isinstance(settings, dict) and "image_processor" in settings
    return _HuggingFacePixels.model_validate(settings["image_processor"] if is_nested else settings)


def _check_hugging_face(folder: Path, text: _HuggingFaceText, vision: _HuggingFaceVision) -> None:
    if text.hidden_act != vision.hidden_act:
        raise DalleError(f"{folder} is not supported: its towers have two activations, {text.hidden_act} and another")
    if not text.layer_norm_eps == vision.layer_norm_eps == 1e-5:
        raise DalleError(f"{folder} is not supported: its layer_norm_eps is not 1e-5")


def _hugging_face_tower(tower: _HuggingFaceText | _HuggingFaceVision) -> TowerTable:
    return TowerTable(
        n_layers=tower.num_hidden_layers,
        d_model=tower.hidden_size,
        n_heads=tower.num_attention_heads,
        d_mlp=tower.intermediate_size,
    )


class _OpenClipVision(_Model):
    """What the weights' shapes don't tell; the library's defaults stand for what is left out, here and below."""

    head_width: Positive = HEAD_WIDTH
    pool_type: Literal["tok"] = "tok"


class _OpenClipText(_Model):
    heads: Positive = 8
    pool_type: Literal["argmax"] = "argmax"
    no_causal_mask: Literal[False] = False


class _OpenClipModel(_Model):
    quick_gelu: bool = False
    vision_cfg: _OpenClipVision
    text_cfg: _OpenClipText


class _OpenClipPixels(_Model):
    mean: list[float] = list(PIXEL_MEAN)
    std: list[float] = list(PIXEL_STD)
    interpolation: Literal["bicubic"] = "bicubic"
    resize_mode: Literal["shortest"] = "shortest"


class _OpenClipConfig(_Model):
    model_cfg: _OpenClipModel
    preprocess_cfg: _OpenClipPixels = _OpenClipPixels()


def _read_openai(path: Path) -> PublicClip:
    """Read the layout of OpenAI and open_clip; what no shape tells is in a config beside it, or as OpenAI has it."""
    folder = path if path.is_dir() else path.parent
    file = _weights_of(path, (*OPEN_CLIP_WEIGHTS, *ANY_WEIGHTS))[0] if path.is_dir() else path
    tensors = read_tensors(file)
    weights = from_openai(tensors)
    _check_openai(file, weights)
    config_file = folder / OPEN_CLIP_CONFIG
    if not config_file.is_file():
        return PublicClip(_table_of(file, weights, _likely_activation(file, tensors), None), _to_fp32(weights))
    config = _OpenClipConfig.model_validate(_read_json(config_file))
    activation: Activation = "quick_gelu" if config.model_cfg.quick_gelu else "gelu"
    return PublicClip(_table_of(file, weights, activation, config), _to_fp32(weights))


def _likely_activation(file: Path, tensors: Mapping[str, Tensor]) -> Activation:
    """Guess what no weight tells: open_clip's models have GELU unless their name says otherwise, others QuickGELU."""
    is_open_clip = file.name.startswith("open_clip") or any(name.startswith(TRAINING_CHECKPOINT) for name in tensors)
    return "gelu" if is_open_clip and "quickgelu" not in file.name.lower() else "quick_gelu"


def _check_openai(file: Path, weights: Mapping[str, Tensor]) -> None:
    if any(name.startswith(RESNET) for name in weights):
        raise DalleError(f"{file} is not supported: its vision tower is a ResNet", "take one of the ViT models")
    if any(name.startswith("text_model.") for name in weights):
        raise DalleError(f"{file} does not tell its sizes", f"give its folder, where they are in {HF_CONFIG}")
    needed = ("visual.conv1.weight", "visual.positional_embedding", "text_projection", "token_embedding.weight")
    missing = [name for name in (*needed, "positional_embedding") if name not in weights]
    if missing:
        raise DalleError(f"{file} is not a CLIP with a ViT: it has no `{missing[0]}`")
    if any(weights[name].ndim != 2 for name in needed[1:]) or weights["visual.conv1.weight"].ndim != 4:
        raise DalleError(f"{file} is not a CLIP with a ViT: its weights have other shapes")


def _table_of(
    file: Path, weights: Mapping[str, Tensor], activation: Activation, config: _OpenClipConfig | None
) -> TrainedClipTable:
    """Tell the sizes from the weights' shapes (OpenAI's way), and the heads from the config where there is one."""
    vision_width, _, _, patch_size = weights["visual.conv1.weight"].shape
    text_vocab_size, text_width = weights["token_embedding.weight"].shape
    vision_heads, text_heads = vision_width // HEAD_WIDTH, text_width // HEAD_WIDTH
    pixels = _OpenClipPixels()
    if config is not None:
        model, pixels = config.model_cfg, config.preprocess_cfg
        vision_heads, text_heads = vision_width // model.vision_cfg.head_width, model.text_cfg.heads
    return TrainedClipTable(
        image_size=patch_size * math.isqrt(len(weights["visual.positional_embedding"]) - 1),
        patch_size=patch_size,
        text_len=len(weights["positional_embedding"]),
        embed_dim=weights["text_projection"].shape[1],
        activation=activation,
        vision=_openai_tower(weights, "visual.transformer", vision_width, vision_heads),
        text=_openai_tower(weights, "transformer", text_width, text_heads),
        text_vocab_size=text_vocab_size,
        end_of_text=None,
        pixel_mean=pixels.mean,
        pixel_std=pixels.std,
    )


def _openai_tower(weights: Mapping[str, Tensor], prefix: str, d_model: int, n_heads: int) -> TowerTable:
    pattern = re.compile(rf"{re.escape(prefix)}\.resblocks\.\d+\.attn\.in_proj_weight$")
    bias = weights.get(f"{prefix}.resblocks.0.mlp.c_fc.bias")
    return TowerTable(
        n_layers=sum(pattern.match(name) is not None for name in weights),
        d_model=d_model,
        n_heads=max(n_heads, 1),
        d_mlp=4 * d_model if bias is None else len(bias),
    )


def _weights_of(folder: Path, patterns: tuple[str, ...]) -> list[Path]:
    """Find the files of weights by the first pattern that fits, safetensors before others."""
    for pattern in patterns:
        if files := sorted(folder.glob(pattern)):
            return files
    raise DalleError(f"{folder} holds no CLIP", f"looked for {', '.join(patterns)}")


def _to_fp32(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.float().contiguous() for name, tensor in weights.items()}


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise DalleError(f"{path} cannot be read: {printable(str(error))}") from error
