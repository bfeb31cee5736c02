"""Reading folders of a Hugging Face CLIPModel: `config.json`, the weights, and the preprocessing.

If these files say that a CLIP computes something else than `models.clip`, it is refused, naming the
key.
"""

import math
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from dalle_cli.config import TowerTable, TrainedClipTable
from dalle_cli.errors import DalleError
from dalle_cli.interop.clip_names import from_hugging_face
from dalle_cli.interop.public_clip import ForeignTable, PublicClip, find_weights, read_json
from dalle_cli.interop.torch_files import read_tensors
from dalle_cli.models.clip import PIXEL_MEAN, PIXEL_STD

HF_CONFIG = "config.json"
# transformers 5 writes the second
HF_PREPROCESSING = ("preprocessor_config.json", "processor_config.json")
HF_WEIGHTS = (
    "model.safetensors",
    "model-*-of-*.safetensors",
    "pytorch_model.bin",
    "pytorch_model-*-of-*.bin",
)

Size = int | dict[str, int | None]


class _Tower(ForeignTable):
    hidden_act: Literal["quick_gelu", "gelu"] = "quick_gelu"
    layer_norm_eps: float = 1e-5


class _Text(_Tower):
    """Settings of the text tower; keys that a file leaves out have the library's defaults."""

    hidden_size: int = 512
    intermediate_size: int = 2048
    num_hidden_layers: int = 12
    num_attention_heads: int = 8
    max_position_embeddings: int = 77
    vocab_size: int = 49408
    eos_token_id: int | None = 49407


class _Vision(_Tower):
    hidden_size: int = 768
    intermediate_size: int = 3072
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    image_size: int = 224
    patch_size: int = 32


class _Config(ForeignTable):
    model_type: Literal["clip"]
    projection_dim: int = 512
    text_config: dict[str, Any] | None = None
    text_config_dict: dict[str, Any] | None = None  # in older files; takes precedence
    vision_config: dict[str, Any] | None = None
    vision_config_dict: dict[str, Any] | None = None


class _Pixels(ForeignTable):
    image_mean: list[float] = Field(default=list(PIXEL_MEAN))
    image_std: list[float] = Field(default=list(PIXEL_STD))
    resample: Literal[3] = 3  # Pillow's number for bicubic
    do_resize: Literal[True] = True
    do_center_crop: Literal[True] = True
    do_rescale: Literal[True] = True
    do_normalize: Literal[True] = True
    rescale_factor: float = 1 / 255
    size: Size | None = None
    crop_size: Size | None = None


def read_hugging_face(folder: Path) -> PublicClip:
    """Read a folder.

    Raises DalleError or ValidationError if it is not a CLIP, is damaged, or is not supported.
    """
    config = _Config.model_validate(read_json(folder / HF_CONFIG))
    text = _Text.model_validate((config.text_config or {}) | (config.text_config_dict or {}))
    vision = _Vision.model_validate(
        (config.vision_config or {}) | (config.vision_config_dict or {})
    )
    _check_towers(folder, text, vision)

    pixels = _read_pixels(folder)
    _check_pixels(folder, pixels, vision.image_size)

    table = TrainedClipTable(
        image_size=vision.image_size,
        patch_size=vision.patch_size,
        text_len=text.max_position_embeddings,
        d_embed=config.projection_dim,
        activation=text.hidden_act,
        vision=_tower_table(vision),
        text=_tower_table(text),
        text_vocab_size=text.vocab_size,
        # 2 was a mistake that means the largest id
        end_of_text=None if text.eos_token_id == 2 else text.eos_token_id,
        pixel_mean=pixels.image_mean,
        pixel_std=pixels.image_std,
    )

    files = find_weights(folder, HF_WEIGHTS)
    tensors = {name: tensor for file in files for name, tensor in read_tensors(file).items()}
    return PublicClip(table, from_hugging_face(tensors))


def _check_towers(folder: Path, text: _Text, vision: _Vision) -> None:
    if text.hidden_act != vision.hidden_act:
        raise DalleError(
            f"{folder} is not supported: its towers have two activations, "
            f"{text.hidden_act} and {vision.hidden_act}"
        )
    if not text.layer_norm_eps == vision.layer_norm_eps == 1e-5:
        raise DalleError(f"{folder} is not supported: its layer_norm_eps is not 1e-5")


def _tower_table(tower: _Text | _Vision) -> TowerTable:
    return TowerTable(
        n_layers=tower.num_hidden_layers,
        d_model=tower.hidden_size,
        n_heads=tower.num_attention_heads,
        d_mlp=tower.intermediate_size,
    )


def _read_pixels(folder: Path) -> _Pixels:
    files = [folder / name for name in HF_PREPROCESSING if (folder / name).is_file()]
    settings = read_json(files[0]) if files else {}
    is_nested = isinstance(settings, dict) and "image_processor" in settings
    return _Pixels.model_validate(settings["image_processor"] if is_nested else settings)


def _check_pixels(folder: Path, pixels: _Pixels, image_size: int) -> None:
    """Raise DalleError for any preprocessing but that of CLIP.

    It scales the shorter side to the model's size, cuts out the centre and divides bytes by 255.
    """
    if not math.isclose(pixels.rescale_factor, 1 / 255, rel_tol=1e-6):
        raise DalleError(
            f"{folder} is not supported: its `rescale_factor` is {pixels.rescale_factor}, not 1/255"
        )

    sides = {
        "size": (pixels.size, {"shortest_edge"}),
        "crop_size": (pixels.crop_size, {"height", "width"}),
    }
    for key, (size, edges) in sides.items():
        if size not in (None, image_size) and _edges(size) != dict.fromkeys(edges, image_size):
            names = " and ".join(sorted(edges))
            raise DalleError(
                f"{folder} is not supported: "
                f"its `{key}` is not the {names} of the model's pictures, {image_size}"
            )


def _edges(size: Size | None) -> dict[str, int]:
    """Return the edges without those that are null, as some files list every edge."""
    if not isinstance(size, dict):
        return {}
    return {edge: length for edge, length in size.items() if length is not None}
