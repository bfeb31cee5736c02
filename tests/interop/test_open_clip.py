"""Files of OpenAI and open_clip become exactly their weights and sizes; all else is an error."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from dalle_cli.config import TowerTable, TrainedClipTable
from dalle_cli.errors import DalleError
from dalle_cli.interop.clip_checkpoints import read_public_clip
from dalle_cli.interop.open_clip import _table_of
from dalle_cli.loading import load_clip
from dalle_cli.models.clip import PIXEL_MEAN, PIXEL_STD, Clip, Tower

Config = dict[str, Any]


def write_json(path: Path, content: object) -> None:
    path.write_text(json.dumps(content))


def assert_same_weights(clip: Clip, expected: dict[str, Tensor]) -> None:
    torch.testing.assert_close(dict(clip.state_dict()), expected, rtol=0, atol=0)


# OpenAI and open_clip: widths are multiples of 64, as heads follow from them; MLPs of any width
CLIP_SIZES: dict[str, Any] = {
    "image_size": 12, "patch_size": 4, "text_len": 5, "text_vocab_size": 23, "d_embed": 9,
    "vision": Tower(2, 128, 2, 150), "text": Tower(1, 48, 1, 70),
}  # fmt: skip
TABLE = TrainedClipTable(
    **{
        **CLIP_SIZES,
        "vision": TowerTable(**vars(CLIP_SIZES["vision"])),
        "text": TowerTable(**vars(CLIP_SIZES["text"])),
    },
    activation="quick_gelu",
    end_of_text=None,
    pixel_mean=list(PIXEL_MEAN),
    pixel_std=list(PIXEL_STD),
)
NUMBERS = {"input_resolution": 12, "context_length": 5, "vocab_size": 23}


@pytest.fixture(scope="module")
def weights(randomise: Callable) -> dict[str, Tensor]:
    """Of a CLIP in OpenAI's layout, matrices rounded to what 16 bits hold."""
    torch.manual_seed(0)
    clip = Clip(**CLIP_SIZES, activation="quick_gelu")
    randomise(clip)
    return {
        name: tensor.half().float() if is_half(name) else tensor
        for name, tensor in clip.state_dict().items()
    }


def is_half(name: str) -> bool:
    """Whether OpenAI's files have a weight in 16 bits: all but norms, embeddings and the scale."""
    return not any(part in name for part in ("ln_", "embedding", "logit_scale"))


class Part(nn.Module):
    """A module of OpenAI's archive: parameters and parts under their names."""

    def place(self, path: list[str], tensor: Tensor) -> None:
        if len(path) == 1:
            self.register_parameter(path[0], nn.Parameter(tensor, requires_grad=False))
            return
        if path[0] not in self._modules:
            self.add_module(path[0], Part())
        self.get_submodule(path[0]).place(path[1:], tensor)

    def forward(self, x: Tensor) -> Tensor:
        return x


def write_archive(path: Path, weights: dict[str, Tensor], **options: object) -> None:
    """Write TorchScript as OpenAI does: the matrices in 16 bits, three numbers beside them."""
    root = Part()
    for name, tensor in weights.items():
        root.place(name.split("."), tensor.half() if is_half(name) else tensor)
    for name, number in NUMBERS.items():
        root.register_buffer(name, torch.tensor(number))
    torch.jit.save(torch.jit.trace(root, torch.zeros(1)), path)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch.jit is, its files are not
def test_torchscript_archive_of_openai_becomes_exactly_its_weights(
    weights: dict[str, Tensor], tmp_path: Path
) -> None:
    write_archive(tmp_path / "ViT-T-4.pt", weights)
    assert read_public_clip(tmp_path / "ViT-T-4.pt").table == TABLE
    clip = load_clip(tmp_path / "ViT-T-4.pt")
    assert_same_weights(clip, weights)
    assert not clip.training and not any(p.requires_grad for p in clip.parameters())


@pytest.mark.parametrize(
    "wrap",
    [
        lambda weights: weights,
        lambda weights: weights | {name: torch.tensor(number) for name, number in NUMBERS.items()},
        lambda weights: weights | NUMBERS,
        lambda weights: {f"module.{name}": tensor for name, tensor in weights.items()},
        lambda weights: weights | {"logit_scale": weights["logit_scale"].reshape(1)},
        lambda weights: {
            n if n.startswith(("vis", "log")) else f"text.{n}": tensor
            for n, tensor in weights.items()
        },
    ],
    ids=[
        "plain",
        "with numbers",
        "with Python's numbers",
        "of several GPUs",
        "scale of one dimension",
        "text prefix",
    ],
)
@pytest.mark.parametrize("place", ["file", "folder"])
def test_state_dict_becomes_exactly_its_weights(
    wrap: Callable, place: str, weights: dict[str, Tensor], tmp_path: Path
) -> None:
    torch.save(wrap(weights), tmp_path / "weights.pt")
    path = tmp_path / "weights.pt" if place == "file" else tmp_path
    assert read_public_clip(path).table == TABLE
    assert_same_weights(load_clip(path), weights)


@pytest.mark.parametrize(
    ("name", "activation"), [("epoch_32.pt", "gelu"), ("vit-b-32-quickgelu.pt", "quick_gelu")]
)
def test_training_checkpoint_is_open_clips(
    name: str, activation: str, weights: dict[str, Tensor], tmp_path: Path
) -> None:
    state = {f"module.{key}": tensor for key, tensor in weights.items()}
    torch.save({"epoch": 3, "state_dict": state, "optimizer": {"lr": 0.1}}, tmp_path / name)
    public = read_public_clip(tmp_path / name)
    assert public.table == TABLE.model_copy(update={"activation": activation})
    assert public.weights.keys() == weights.keys()


def test_loaded_clip_is_the_one_that_was_saved(weights: dict[str, Tensor], tmp_path: Path) -> None:
    torch.save(weights, tmp_path / "weights.pt")
    saved, loaded = Clip(**CLIP_SIZES, activation="quick_gelu"), load_clip(tmp_path)
    saved.load_state_dict(weights)
    torch.manual_seed(0)
    pixels, tokens = torch.randn(2, 3, 12, 12), torch.randint(23, (4, 5))
    # not bit for bit: where a file's bytes lie in memory decides in which order the processor adds
    torch.testing.assert_close(loaded(pixels, tokens), saved(pixels, tokens), rtol=1e-5, atol=1e-5)


def write_open_clip(folder: Path, weights: dict[str, Tensor], pixels: Config, **model: Any) -> Path:
    """Write a folder as open_clip's push to the hub does."""
    vision = {"layers": 2, "width": 128, "patch_size": 4, "image_size": 12, "mlp_ratio": 150 / 128}
    text = {
        "layers": 1,
        "width": 48,
        "heads": 1,
        "context_length": 5,
        "vocab_size": 23,
        "mlp_ratio": 70 / 48,
    }
    towers = {
        "vision_cfg": vision | model.pop("vision", {}),
        "text_cfg": text | model.pop("text", {}),
    }
    config = {"model_cfg": {"embed_dim": 9, **towers, **model}, "preprocess_cfg": pixels}
    folder.mkdir(exist_ok=True)
    write_json(folder / "open_clip_config.json", config)
    save_file(weights, folder / "open_clip_model.safetensors")
    return folder


@pytest.mark.parametrize(
    ("model", "changes"),
    [
        ({}, {"activation": "gelu"}),
        ({"quick_gelu": False}, {"activation": "gelu"}),
        ({"quick_gelu": True}, {"activation": "quick_gelu"}),
        ({"vision": {"head_width": 32}}, {"activation": "gelu", "vision": {"n_heads": 4}}),
        ({"text": {"heads": 3}, "quick_gelu": True}, {"text": {"n_heads": 3}}),
        ({"custom_text": True, "text": {"pool_type": "argmax"}}, {"activation": "gelu"}),
        ({"vision": {"norm_kwargs": {}}, "text": {"act_kwargs": None}}, {"activation": "gelu"}),
    ],
    ids=str,
)
def test_config_of_open_clip_says_what_shapes_do_not(
    model: Config, changes: Config, weights: dict[str, Tensor], tmp_path: Path
) -> None:
    expected = TABLE.model_dump()
    for key, value in changes.items():
        expected[key] = expected[key] | value if isinstance(value, dict) else value
    write_open_clip(tmp_path, weights, {}, **model)
    assert read_public_clip(tmp_path).table.model_dump() == expected
    assert_same_weights(load_clip(tmp_path), weights)


def test_heads_that_open_clip_leaves_out_are_its_defaults(
    weights: dict[str, Tensor], tmp_path: Path
) -> None:
    folder = write_open_clip(tmp_path, weights, {})
    write_json(folder / "open_clip_config.json", {"model_cfg": {"text_cfg": {}, "vision_cfg": {}}})
    table = read_public_clip(folder).table
    assert (table.text.n_heads, table.vision.n_heads) == (8, 2)


def test_preprocessing_of_open_clip_is_honoured(weights: dict[str, Tensor], tmp_path: Path) -> None:
    pixels = {
        "mean": [0.5, 0.25, 0.125],
        "std": [0.5, 1, 2.0],
        "interpolation": "bicubic",
        "resize_mode": "shortest",
    }
    clip = load_clip(write_open_clip(tmp_path, weights, pixels))
    assert (clip.pixel_mean, clip.pixel_std) == ((0.5, 0.25, 0.125), (0.5, 1, 2))


@pytest.mark.parametrize(
    ("pixels", "model", "key"),
    [
        ({"resize_mode": "squash"}, {}, "resize_mode"),
        ({"resize_mode": "longest"}, {}, "resize_mode"),
        ({"interpolation": "bilinear"}, {}, "interpolation"),
        ({}, {"text": {"pool_type": "eos", "eos_id": 2}}, "pool_type"),
        ({}, {"text": {"no_causal_mask": True}}, "no_causal_mask"),
        ({}, {"vision": {"pool_type": "avg"}}, "pool_type"),
        ({}, {"vision": {"head_width": 0}}, "head_width"),
        ({}, {"text": {"heads": 7}}, "n_heads"),
        ({}, {"quick_gelu": 1}, "quick_gelu"),
        ({}, {"vision": {"norm_kwargs": {"eps": 1e-6}}}, "vision_cfg.norm_kwargs"),
        ({}, {"text": {"act_kwargs": {"approximate": "tanh"}}}, "text_cfg.act_kwargs"),
    ],
    ids=str,
)
def test_what_open_clip_does_otherwise_is_refused_by_key(
    pixels: Config, model: Config, key: str, weights: dict[str, Tensor], tmp_path: Path
) -> None:
    folder = write_open_clip(tmp_path, weights, pixels, **model)
    with pytest.raises(DalleError, match=key) as caught:
        load_clip(folder)
    assert caught.value.message.startswith(str(folder))


def test_open_clip_weights_in_a_bin_load_with_and_without_the_folder(
    weights: dict[str, Tensor], tmp_path: Path
) -> None:
    folder = write_open_clip(tmp_path, weights, {}, text={"heads": 3})
    (folder / "open_clip_model.safetensors").unlink()
    torch.save({"state_dict": weights}, folder / "open_clip_pytorch_model.bin")
    for path in (folder, folder / "open_clip_pytorch_model.bin"):
        assert read_public_clip(path).table.text.n_heads == 3
        assert_same_weights(load_clip(path), weights)


@pytest.mark.parametrize(
    ("name", "activation"),
    [
        ("open_clip_pytorch_model.bin", "gelu"),
        ("open_clip-mine.pt", "gelu"),
        ("vit_b_16-laion400m_e32-55e67d44.pt", "gelu"),
        ("vit_b_32-laion2b_e16-af8dbd0c.pth", "gelu"),
        ("CLIP-ViT-L-14-DataComp.XL-s13B-b90K.bin", "gelu"),
        ("vit_b_32-quickgelu-laion400m_e32-46683a32.pt", "quick_gelu"),
        ("mine-QuickGELU.pt", "quick_gelu"),
    ],
)
@pytest.mark.parametrize("is_training", [False, True], ids=["weights", "training checkpoint"])
def test_activation_that_no_config_states_is_by_the_name_of_the_file(
    name: str, activation: str, is_training: bool, weights: dict[str, Tensor], tmp_path: Path
) -> None:
    torch.save({"state_dict": weights} if is_training else weights, tmp_path / name)
    public = read_public_clip(tmp_path / name)
    assert (public.table.activation, public.assumption) == (activation, "")


def test_activation_of_openais_own_files_is_no_assumption(
    weights: dict[str, Tensor], tmp_path: Path
) -> None:
    numbers = {name: torch.tensor(number) for name, number in NUMBERS.items()}
    torch.save(weights | numbers, tmp_path / "ViT-T-4.pt")
    public = read_public_clip(tmp_path / "ViT-T-4.pt")
    assert (public.table.activation, public.assumption) == ("quick_gelu", "")


@pytest.mark.parametrize(
    ("is_training", "activation", "words"),
    [
        (False, "quick_gelu", ["taken to have QuickGELU", "let its name begin with `open_clip`"]),
        (True, "gelu", ["taken to have exact GELU", "put `quickgelu` into its name"]),
    ],
)
def test_activation_that_nothing_tells_is_assumed_and_that_is_told(
    is_training: bool,
    activation: str,
    words: list[str],
    weights: dict[str, Tensor],
    tmp_path: Path,
) -> None:
    file = tmp_path / "mine.pt"
    torch.save({"state_dict": weights} if is_training else weights, file)
    public = read_public_clip(file)
    assert public.table.activation == activation
    assert public.assumption.startswith(f"{file} does not state its activation")
    assert all(word in public.assumption for word in words)


@pytest.mark.parametrize(
    ("pixels", "model", "told", "hint"),
    [
        ({"resize_mode": "squash"}, {}, "preprocess_cfg.resize_mode` is 'squash'", "'shortest'"),
        ({"interpolation": "bilinear"}, {}, "interpolation` is 'bilinear'", "'bicubic'"),
        ({}, {"vision": {"pool_type": "avg"}}, "vision_cfg.pool_type` is 'avg'", "'tok'"),
        ({}, {"text": {"pool_type": "last"}}, "text_cfg.pool_type` is 'last'", "'argmax'"),
        ({}, {"text": {"no_causal_mask": True}}, "no_causal_mask` is True", "False"),
        ({}, {"vision": {"norm_kwargs": {"eps": 1}}}, "norm_kwargs` is {'eps': 1}", "has no"),
    ],
    ids=str,
)
def test_clip_that_works_otherwise_is_told_as_not_supported(
    pixels: Config,
    model: Config,
    told: str,
    hint: str,
    weights: dict[str, Tensor],
    tmp_path: Path,
) -> None:
    folder = write_open_clip(tmp_path, weights, pixels, **model)
    with pytest.raises(DalleError) as caught:
        load_clip(folder)
    assert caught.value.message.startswith(f"{folder} is not supported: its `")
    assert told in caught.value.message and hint in caught.value.hint


def test_config_beside_is_not_that_of_a_file_by_any_other_name(
    weights: dict[str, Tensor], tmp_path: Path
) -> None:
    write_open_clip(tmp_path, weights, {}, vision={"head_width": 32}, text={"heads": 3})
    torch.save(weights, tmp_path / "ViT-T-4.pt")
    assert read_public_clip(tmp_path / "ViT-T-4.pt").table == TABLE


@pytest.mark.parametrize("others", [["b.pt"], ["a.safetensors"], ["b.pth", "c.bin"]])
def test_folder_of_several_checkpoints_is_refused_by_their_names(
    others: list[str], weights: dict[str, Tensor], tmp_path: Path
) -> None:
    for name in ("a.pt", *others):
        torch.save(weights, tmp_path / name)
    with pytest.raises(DalleError, match=rf"holds {1 + len(others)} checkpoints: a\.") as caught:
        load_clip(tmp_path)
    assert (
        all(name in caught.value.message for name in ("a.pt", *others))
        and "give the file" in caught.value.hint
    )


RELEASED = {  # Radford et al. 2021, table 20, and the number of parameters of the released weights
    "ViT-B/32": (224, 32, 512, Tower(12, 768, 12, 3072), Tower(12, 512, 8, 2048), 151_277_313),
    "ViT-B/16": (224, 16, 512, Tower(12, 768, 12, 3072), Tower(12, 512, 8, 2048), 149_620_737),
    "ViT-L/14": (224, 14, 768, Tower(24, 1024, 16, 4096), Tower(12, 768, 12, 3072), 427_616_513),
    "ViT-L/14@336": (
        336,
        14,
        768,
        Tower(24, 1024, 16, 4096),
        Tower(12, 768, 12, 3072),
        427_944_193,
    ),
}


@pytest.mark.parametrize("name", RELEASED)
def test_sizes_of_the_released_models_are_told_from_shapes_alone(name: str) -> None:
    """By the function inside, as no file holds shapes without their hundreds of megabytes."""
    image_size, patch_size, d_embed, vision, text, n_parameters = RELEASED[name]
    with torch.device("meta"):
        clip = Clip(image_size, patch_size, 77, 49408, d_embed, "quick_gelu", vision, text)
    assert sum(parameter.numel() for parameter in clip.parameters()) == n_parameters
    table = _table_of(clip.state_dict(), "quick_gelu", None)
    assert table.model_dump() == TABLE.model_dump() | {
        "image_size": image_size,
        "patch_size": patch_size,
        "text_len": 77,
        "text_vocab_size": 49408,
        "d_embed": d_embed,
        "vision": vars(vision),
        "text": vars(text),
    }


SHARED_NAMES = {"text_projection": torch.zeros(4, 4), "token_embedding.weight": torch.zeros(4, 4)}
FOREIGN = {
    "ResNet": (
        SHARED_NAMES
        | {
            "visual.layer1.0.conv1.weight": torch.zeros(1),
            "visual.attnpool.q_proj.weight": torch.ones(1),
        },
        "is not supported: its vision tower is a ResNet",
    ),
    "timm tower": (
        SHARED_NAMES | {"visual.trunk.patch_embed.proj.weight": torch.zeros(1)},
        "is not a CLIP with a ViT",
    ),
    "file of a Hugging Face folder": (
        {"vision_model.embeddings.class_embedding": torch.zeros(1)},
        "is not a CLIP",
    ),
    "some other model": ({"layers.0.weight": torch.zeros(1)}, "is not a CLIP"),
}


@pytest.mark.parametrize("kind", FOREIGN)
@pytest.mark.parametrize("place", ["file", "folder"])
def test_foreign_weights_are_told_for_what_they_are(kind: str, place: str, tmp_path: Path) -> None:
    state, message = FOREIGN[kind]
    torch.save(state, tmp_path / "weights.pt")
    with pytest.raises(DalleError, match=rf"weights\.pt {message}"):
        load_clip(tmp_path / "weights.pt" if place == "file" else tmp_path)


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("visual.conv1.weight", [128, 3, 4]),
        ("visual.conv1.weight", [128, 3, 4, 0]),
        ("visual.conv1.weight", [10**15, 0, 4, 4]),
        ("visual.positional_embedding", [0, 128]),
        ("visual.positional_embedding", [9, 128]),
        ("visual.positional_embedding", [10]),
        ("positional_embedding", [5]),
        ("text_projection", [48, 0]),
        ("token_embedding.weight", [0, 48]),
        ("token_embedding.weight", [23, 49]),
        ("visual.transformer.resblocks.0.mlp.c_fc.bias", []),
        ("visual.transformer.resblocks.0.attn.in_proj_weight", [3, 3]),
        ("logit_scale", [2]),
        ("visual.surprise", [1]),
    ],
    ids=str,
)
def test_weights_of_impossible_shapes_are_told(
    name: str, shape: list[int], weights: dict[str, Tensor], tmp_path: Path
) -> None:
    save_file(weights | {name: torch.zeros(shape)}, tmp_path / "weights.safetensors")
    with pytest.raises(DalleError, match=r"weights\.safetensors"):
        load_clip(tmp_path / "weights.safetensors")


@pytest.mark.parametrize(
    "name", ["visual.proj", "ln_final.bias", "visual.transformer.resblocks.1.ln_2.weight"]
)
def test_missing_weight_is_told_by_name(
    name: str, weights: dict[str, Tensor], tmp_path: Path
) -> None:
    torch.save(
        {key: tensor for key, tensor in weights.items() if key != name}, tmp_path / "weights.pt"
    )
    with pytest.raises(DalleError, match=rf"weights\.pt.* {name}: missing"):
        load_clip(tmp_path / "weights.pt")


def test_safetensors_go_before_a_pickle_beside_them(
    weights: dict[str, Tensor], tmp_path: Path
) -> None:
    folder = write_open_clip(tmp_path, weights, {})
    shutil.copy(folder / "open_clip_config.json", folder / "open_clip_pytorch_model.bin")
    assert_same_weights(load_clip(folder), weights)
