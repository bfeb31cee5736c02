"""Public CLIPs: what transformers, OpenAI and open_clip write becomes the same model; all else, an error."""

import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from dalle_cli.config import TowerTable, TrainedClipTable
from dalle_cli.errors import DalleError
from dalle_cli.interop.clip_checkpoints import _table_of, read_public_clip
from dalle_cli.interop.clip_names import from_hugging_face
from dalle_cli.loading import build_clip, load_clip
from dalle_cli.models.clip import PIXEL_MEAN, PIXEL_STD, Clip, Tower

Config = dict[str, Any]


def randomise(module: nn.Module) -> None:
    """Leave no gain at one and no bias at zero, where to mix them up would not be seen."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.2 + (parameter.ndim < 2) * 0.5)


def write_json(path: Path, content: object) -> None:
    path.write_text(json.dumps(content))


def change_json(path: Path, change: Callable[[Config], object]) -> None:
    content = json.loads(path.read_text())
    change(content)
    write_json(path, content)


# Hugging Face: heads are not width / 64, perceptrons not 4 widths, and no two sizes of a model alike
HF_CONFIGS: dict[str, Config] = {
    "largest id ends": {
        "projection_dim": 28,
        "text_config": {
            "hidden_size": 48, "intermediate_size": 80, "num_hidden_layers": 2, "num_attention_heads": 4,
            "max_position_embeddings": 9, "vocab_size": 60, "hidden_act": "quick_gelu", "eos_token_id": 2,
        },
        "vision_config": {
            "hidden_size": 40, "intermediate_size": 96, "num_hidden_layers": 3, "num_attention_heads": 5,
            "image_size": 24, "patch_size": 8, "hidden_act": "quick_gelu",
        },
    },
    "id inside ends": {
        "projection_dim": 20,
        "text_config": {
            "hidden_size": 24, "intermediate_size": 100, "num_hidden_layers": 3, "num_attention_heads": 3,
            "max_position_embeddings": 12, "vocab_size": 50, "hidden_act": "gelu", "eos_token_id": 7,
        },
        "vision_config": {
            "hidden_size": 36, "intermediate_size": 52, "num_hidden_layers": 1, "num_attention_heads": 2,
            "image_size": 20, "patch_size": 5, "hidden_act": "gelu",
        },
    },
    "last id ends": {
        "projection_dim": 66,
        "text_config": {
            "hidden_size": 64, "intermediate_size": 30, "num_hidden_layers": 1, "num_attention_heads": 8,
            "max_position_embeddings": 7, "vocab_size": 40, "hidden_act": "quick_gelu", "eos_token_id": 39,
        },
        "vision_config": {
            "hidden_size": 128, "intermediate_size": 70, "num_hidden_layers": 2, "num_attention_heads": 4,
            "image_size": 16, "patch_size": 16, "hidden_act": "quick_gelu",
        },
    },
}  # fmt: skip
SMALL = HF_CONFIGS["last id ends"]
TOWERS = ("text_config", "vision_config")
UNUSED_TOKENS = {"bos_token_id": 0, "pad_token_id": 1}  # whose defaults lie outside of a small vocabulary


@pytest.fixture(scope="module")
def transformers() -> ModuleType:
    """The library, a reference here and nowhere else; to import it takes seconds."""
    return pytest.importorskip("transformers")


def make_reference(transformers: ModuleType, config: Config) -> nn.Module:
    torch.manual_seed(0)
    text = UNUSED_TOKENS | config["text_config"]
    model = transformers.CLIPModel(transformers.CLIPConfig(**config | {"text_config": text})).eval()
    randomise(model)
    return model


@pytest.fixture(scope="module")
def reference(transformers: ModuleType) -> nn.Module:
    return make_reference(transformers, SMALL)


@pytest.fixture
def hf_folder(reference: nn.Module, tmp_path: Path) -> Path:
    """A folder as transformers writes it, to change."""
    reference.save_pretrained(tmp_path / "hf")
    return tmp_path / "hf"


@pytest.fixture(scope="module")
def expected(reference: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tensor]:
    """The weights of a folder that nobody changed."""
    reference.save_pretrained(tmp_path_factory.mktemp("reference"))
    return dict(load_clip(tmp_path_factory.getbasetemp() / "reference0").state_dict())


def assert_same_weights(clip: Clip, expected: dict[str, Tensor]) -> None:
    torch.testing.assert_close(dict(clip.state_dict()), expected, rtol=0, atol=0)


@torch.no_grad()
@pytest.mark.parametrize("name", HF_CONFIGS)
def test_hugging_face_folder_gives_the_features_and_ranking_of_transformers(
    name: str, transformers: ModuleType, tmp_path: Path
) -> None:
    model, sizes = make_reference(transformers, HF_CONFIGS[name]), HF_CONFIGS[name]
    model.save_pretrained(tmp_path)
    clip = load_clip(tmp_path)
    side, text_config = sizes["vision_config"]["image_size"], sizes["text_config"]
    pixels = torch.randn(5, 3, side, side)
    tokens = torch.randint(8, text_config["vocab_size"] - 1, (6, text_config["max_position_embeddings"]))
    tokens[:, 3] = tokens[::2, 5] = text_config["vocab_size"] - 1  # the largest, where it ends captions
    if name == "id inside ends":
        tokens[:, 2], tokens[1::2, 6] = 7, 7
    images = model.visual_projection(model.vision_model(pixel_values=pixels).pooler_output)
    texts = model.text_projection(model.text_model(input_ids=tokens).pooler_output)
    logits = model(pixel_values=pixels, input_ids=tokens).logits_per_image
    torch.testing.assert_close(clip.encode_image(pixels), images, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(clip.encode_text(tokens), texts, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(clip(pixels, tokens)[0], logits, rtol=1e-5, atol=1e-5)
    assert clip(pixels, tokens)[0].argsort().equal(logits.argsort())
    assert F.normalize(images).std(dim=0).min() > 1e-3 and F.normalize(texts).std(dim=0).min() > 1e-3  # worth ranking


@pytest.mark.parametrize("files", ["one .bin", "shards", "shards of .bin", "bfloat16"])
def test_weights_are_found_in_every_form_that_transformers_has_written(
    files: str, reference: nn.Module, expected: dict[str, Tensor], hf_folder: Path
) -> None:
    (hf_folder / "model.safetensors").unlink()
    names = list(reference.state_dict())
    if files == "shards":
        reference.save_pretrained(hf_folder, max_shard_size="50KB")
        assert len(list(hf_folder.glob("model-*-of-*.safetensors"))) > 2
    elif files == "one .bin":
        torch.save(reference.state_dict(), hf_folder / "pytorch_model.bin")
    elif files == "shards of .bin":
        for number, part in enumerate((names[:9], names[9:]), 1):
            state = {name: reference.state_dict()[name] for name in part}
            torch.save(state, hf_folder / f"pytorch_model-0000{number}-of-00002.bin")
    else:
        halves = {name: tensor.bfloat16() for name, tensor in reference.state_dict().items()}
        save_file(halves, hf_folder / "model.safetensors")
        expected = {name: tensor.bfloat16().float() for name, tensor in expected.items()}
    assert_same_weights(load_clip(hf_folder), expected)


def test_sixteen_bit_file_comes_out_in_32_bits(reference: nn.Module, expected: dict[str, Tensor], tmp_path: Path):
    halves = {name: tensor.half() for name, tensor in reference.state_dict().items()}
    reference.config.save_pretrained(tmp_path)
    save_file(halves, tmp_path / "model.safetensors")
    assert_same_weights(load_clip(tmp_path), {name: tensor.half().float() for name, tensor in expected.items()})


def test_position_ids_of_older_files_are_dropped(expected: dict[str, Tensor], hf_folder: Path) -> None:
    buffers = {f"{tower}_model.embeddings.position_ids": torch.arange(7)[None] for tower in ("text", "vision")}
    file = hf_folder / "model.safetensors"
    save_file(load_file(file) | buffers, file)
    assert_same_weights(load_clip(hf_folder), expected)


def old_style(config: Config) -> None:
    """Keep the sizes where files of 2022 have them, beside a short copy."""
    for tower in ("text", "vision"):
        config[f"{tower}_config_dict"] = config[f"{tower}_config"]
    config["text_config"], config["vision_config"] = {}, None


def test_sizes_are_found_where_older_configs_have_them(expected: dict[str, Tensor], hf_folder: Path) -> None:
    table = read_public_clip(hf_folder).table
    change_json(hf_folder / "config.json", old_style)
    assert read_public_clip(hf_folder).table == table
    assert_same_weights(load_clip(hf_folder), expected)


L_14 = {
    "text": {"hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12, "projection_dim": 768},
    "vision": {
        "hidden_size": 1024, "intermediate_size": 4096, "num_attention_heads": 16, "num_hidden_layers": 24,
        "patch_size": 14, "projection_dim": 768,
    },
}  # fmt: skip
SPARSE_CONFIGS = {
    "nothing": {},
    "empty towers": {"projection_dim": 512, "text_config": {}, "vision_config": {}},
    "B/32 as published": {
        "projection_dim": 512,
        "text_config": {"bos_token_id": 0, "eos_token_id": 2, "model_type": "clip_text_model", "dropout": 0.0},
        "text_config_dict": None,
        "vision_config": {"model_type": "clip_vision_model", "dropout": 0.0},
        "vision_config_dict": None,
        "logit_scale_init_value": 2.6592,
    },
    "B/16": {"projection_dim": 512, "text_config": {"eos_token_id": 2}, "vision_config": {"patch_size": 16}},
    "L/14": {"projection_dim": 768, "text_config_dict": L_14["text"], "vision_config_dict": L_14["vision"]},
    "L/14@336 with GELU": {
        "projection_dim": 768,
        "text_config": L_14["text"] | {"hidden_act": "gelu"},
        "vision_config": L_14["vision"] | {"hidden_act": "gelu", "image_size": 336},
    },
}


@pytest.mark.parametrize("name", SPARSE_CONFIGS)
def test_what_a_config_leaves_out_is_what_transformers_takes(
    name: str, transformers: ModuleType, tmp_path: Path
) -> None:
    config = SPARSE_CONFIGS[name]
    write_json(tmp_path / "config.json", config | {"model_type": "clip"})
    save_file({"logit_scale": torch.zeros(())}, tmp_path / "model.safetensors")
    table = read_public_clip(tmp_path).table
    reference = transformers.CLIPConfig(**config)
    with torch.device("meta"):
        theirs, ours = from_hugging_face(transformers.CLIPModel(reference).state_dict()), build_clip(table).state_dict()
    assert {key: list(value.shape) for key, value in theirs.items()} == {k: list(v.shape) for k, v in ours.items()}
    heads = (reference.text_config.num_attention_heads, reference.vision_config.num_attention_heads)
    assert (table.text.n_heads, table.vision.n_heads) == heads
    assert table.activation == reference.text_config.hidden_act == reference.vision_config.hidden_act
    is_largest = reference.text_config.eos_token_id == 2
    assert table.end_of_text == (None if is_largest else reference.text_config.eos_token_id)


def test_normalisation_of_pixels_is_the_checkpoints_own(hf_folder: Path) -> None:
    clip = load_clip(hf_folder)
    assert (clip.pixel_mean, clip.pixel_std) == (PIXEL_MEAN, PIXEL_STD)
    pixels = {"image_mean": [0.5, 0.25, 0.125], "image_std": [0.5, 1, 2.0], "resample": 3, "size": 24, "crop_size": {}}
    write_json(hf_folder / "preprocessor_config.json", pixels)
    clip = load_clip(hf_folder)
    assert (clip.pixel_mean, clip.pixel_std) == ((0.5, 0.25, 0.125), (0.5, 1, 2))


@pytest.mark.parametrize(
    ("file", "changes", "message"),
    [
        ("preprocessor_config.json", {"resample": 2}, "`resample`"),
        ("preprocessor_config.json", {"image_mean": [0.5]}, "`pixel_mean`"),
        ("preprocessor_config.json", {"image_std": [1.0, 1.0, 0.0]}, r"`pixel_std\.2`"),
        ("config.json", {"model_type": "siglip"}, "`model_type`.*'clip'.*siglip"),
        ("config.json", {"model_type": "\x1b[31mred"}, "`model_type`.*red"),
        ("config.json", {"model_type": None}, "`model_type`"),
        ("config.json", {"projection_dim": "28"}, "`projection_dim`"),
        ("config.json", {"text_config": {**SMALL["text_config"], "hidden_act": "gelu"}}, "not supported.*activations"),
        ("config.json", {"text_config": {**SMALL["text_config"], "hidden_act": "relu"}}, "hidden_act"),
        ("config.json", {"vision_config": {**SMALL["vision_config"], "layer_norm_eps": 1e-6}}, "layer_norm_eps"),
        ("config.json", {tower: {**SMALL[tower], "layer_norm_eps": 1e-6} for tower in TOWERS}, "layer_norm_eps"),
        ("config.json", {"vision_config": {**SMALL["vision_config"], "num_attention_heads": 5}}, "n_heads"),
        ("config.json", {"vision_config": {**SMALL["vision_config"], "patch_size": 0}}, "patch_size"),
        ("config.json", {"vision_config": {**SMALL["vision_config"], "image_size": [16, 16]}}, "image_size"),
        ("config.json", {"vision_config": {**SMALL["vision_config"], "image_size": 10**15}}, "does not hold"),
        ("config.json", {"text_config": {**SMALL["text_config"], "vocab_size": 10**18}}, "does not hold"),
        ("config.json", {"text_config": {**SMALL["text_config"], "hidden_size": 72}}, "does not hold.*weights"),
        ("config.json", {"text_config": {**SMALL["text_config"], "num_hidden_layers": 10**12}}, "n_layers"),
        ("config.json", {"text_config": 3}, "`text_config`"),
    ],
    ids=str,
)
def test_config_that_is_another_models_is_refused_by_key(
    file: str, changes: Config, message: str, hf_folder: Path
) -> None:
    path = hf_folder / file
    write_json(path, (json.loads(path.read_text()) if path.exists() else {}) | changes)
    with pytest.raises(DalleError, match=message) as caught:
        load_clip(hf_folder)
    assert caught.value.message.startswith(str(hf_folder)) and "\x1b" not in caught.value.message


@pytest.mark.parametrize("file", ["config.json", "preprocessor_config.json"])
@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"3", b"null", b"\xff\xfe", b"[" * 100_000, b'"kind"'])
def test_damaged_json_is_told(file: str, content: bytes, hf_folder: Path) -> None:
    (hf_folder / file).write_bytes(content)
    with pytest.raises(DalleError) as caught:
        load_clip(hf_folder)
    assert caught.value.message.startswith(str(hf_folder))


@pytest.mark.parametrize("damage", ["missing", "one more", "misshapen", "without a third", "unlike thirds", "deep"])
def test_weight_that_does_not_fit_is_told_by_name(damage: str, hf_folder: Path) -> None:
    file = hf_folder / "model.safetensors"
    weights = load_file(file)
    key = "text_model.encoder.layers.0.self_attn.k_proj.weight"
    name = "transformer.resblocks.0.attn.in_proj_weight"
    if damage == "missing":
        del weights["vision_model.pre_layrnorm.bias"]
        name = "visual.ln_pre.bias"
    elif damage == "one more":
        weights["vision_model.surprise\x1b[31m"] = torch.zeros(1)
        name = "vision_model.surprise\ufffd"
    elif damage == "misshapen":
        weights["logit_scale"] = torch.zeros(2)
        name = "logit_scale"
    elif damage == "without a third":
        del weights[key]
    else:
        weights[key if damage == "unlike thirds" else "visual_projection.weight"] = torch.zeros(3, 3, 3)
        name = "weights"
    save_file(weights, file)
    with pytest.raises(DalleError) as caught:
        load_clip(hf_folder)
    assert name in caught.value.message and caught.value.message.startswith(str(hf_folder))


# OpenAI and open_clip: widths of which 64 is a part, as their heads follow from it; perceptrons of any width
CLIP_SIZES: dict[str, Any] = {
    "image_size": 12, "patch_size": 4, "text_len": 5, "text_vocab_size": 23, "embed_dim": 9,
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
def weights() -> dict[str, Tensor]:
    """Of a CLIP in OpenAI's layout, matrices rounded to what 16 bits hold."""
    torch.manual_seed(0)
    clip = Clip(**CLIP_SIZES, activation="quick_gelu")
    randomise(clip)
    return {name: tensor.half().float() if is_half(name) else tensor for name, tensor in clip.state_dict().items()}


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
def test_torchscript_archive_of_openai_becomes_exactly_its_weights(weights: dict[str, Tensor], tmp_path: Path) -> None:
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
        lambda weights: {n if n.startswith(("vis", "log")) else f"text.{n}": tensor for n, tensor in weights.items()},
    ],
    ids=["plain", "with numbers", "with Python's numbers", "of several GPUs", "scale of one dimension", "text prefix"],
)
@pytest.mark.parametrize("place", ["file", "folder"])
def test_state_dict_becomes_exactly_its_weights(
    wrap: Callable, place: str, weights: dict[str, Tensor], tmp_path: Path
) -> None:
    torch.save(wrap(weights), tmp_path / "weights.pt")
    path = tmp_path / "weights.pt" if place == "file" else tmp_path
    assert read_public_clip(path).table == TABLE
    assert_same_weights(load_clip(path), weights)


@pytest.mark.parametrize(("name", "activation"), [("epoch_32.pt", "gelu"), ("vit-b-32-quickgelu.pt", "quick_gelu")])
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
    text = {"layers": 1, "width": 48, "heads": 1, "context_length": 5, "vocab_size": 23, "mlp_ratio": 70 / 48}
    towers = {"vision_cfg": vision | model.pop("vision", {}), "text_cfg": text | model.pop("text", {})}
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


def test_heads_that_open_clip_leaves_out_are_its_defaults(weights: dict[str, Tensor], tmp_path: Path) -> None:
    folder = write_open_clip(tmp_path, weights, {})
    change_json(folder / "open_clip_config.json", lambda config: config["model_cfg"].update(text_cfg={}, vision_cfg={}))
    table = read_public_clip(folder).table
    assert (table.text.n_heads, table.vision.n_heads) == (8, 2)


def test_preprocessing_of_open_clip_is_honoured(weights: dict[str, Tensor], tmp_path: Path) -> None:
    pixels = {"mean": [0.5, 0.25, 0.125], "std": [0.5, 1, 2.0], "interpolation": "bicubic", "resize_mode": "shortest"}
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


def test_activation_that_no_config_tells_is_by_whose_file_it_is(weights: dict[str, Tensor], tmp_path: Path) -> None:
    for name, activation in (("open_clip_pytorch_model.bin", "gelu"), ("ViT-T-4.pt", "quick_gelu")):
        torch.save(weights, tmp_path / name)
        assert read_public_clip(tmp_path / name).table.activation == activation


RELEASED = {  # Radford et al. 2021, table 20, and the number of parameters that the released weights have
    "ViT-B/32": (224, 32, 512, Tower(12, 768, 12, 3072), Tower(12, 512, 8, 2048), 151_277_313),
    "ViT-B/16": (224, 16, 512, Tower(12, 768, 12, 3072), Tower(12, 512, 8, 2048), 149_620_737),
    "ViT-L/14": (224, 14, 768, Tower(24, 1024, 16, 4096), Tower(12, 768, 12, 3072), 427_616_513),
    "ViT-L/14@336": (336, 14, 768, Tower(24, 1024, 16, 4096), Tower(12, 768, 12, 3072), 427_944_193),
}


@pytest.mark.parametrize("name", RELEASED)
def test_sizes_of_the_released_models_are_told_from_shapes_alone(name: str) -> None:
    """By the function inside, as no file holds shapes without their hundreds of megabytes."""
    image_size, patch_size, embed_dim, vision, text, n_parameters = RELEASED[name]
    with torch.device("meta"):
        clip = Clip(image_size, patch_size, 77, 49408, embed_dim, "quick_gelu", vision, text)
    assert sum(parameter.numel() for parameter in clip.parameters()) == n_parameters
    table = _table_of(Path("clip.pt"), clip.state_dict(), "quick_gelu", None)
    assert table.model_dump() == TABLE.model_dump() | {
        "image_size": image_size,
        "patch_size": patch_size,
        "text_len": 77,
        "text_vocab_size": 49408,
        "embed_dim": embed_dim,
        "vision": vars(vision),
        "text": vars(text),
    }


SHARED_NAMES = {"text_projection": torch.zeros(4, 4), "token_embedding.weight": torch.zeros(4, 4)}
FOREIGN = {
    "ResNet": (
        SHARED_NAMES | {"visual.layer1.0.conv1.weight": torch.zeros(1), "visual.attnpool.q_proj.weight": torch.ones(1)},
        "is not supported: its vision tower is a ResNet",
    ),
    "timm tower": (SHARED_NAMES | {"visual.trunk.patch_embed.proj.weight": torch.zeros(1)}, "is not a CLIP with a ViT"),
    "file of a Hugging Face folder": ({"vision_model.embeddings.class_embedding": torch.zeros(1)}, "is not a CLIP"),
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


@pytest.mark.parametrize("name", ["visual.proj", "ln_final.bias", "visual.transformer.resblocks.1.ln_2.weight"])
def test_missing_weight_is_told_by_name(name: str, weights: dict[str, Tensor], tmp_path: Path) -> None:
    torch.save({key: tensor for key, tensor in weights.items() if key != name}, tmp_path / "weights.pt")
    with pytest.raises(DalleError, match=rf"weights\.pt.* {name}: missing"):
        load_clip(tmp_path / "weights.pt")


def test_what_is_no_checkpoint_is_told(tmp_path: Path) -> None:
    (tmp_path / "clip.pt").write_text("<!DOCTYPE html><title>404</title>")
    (tmp_path / "empty").mkdir()
    for path, message in (("clip.pt", r"clip\.pt is not a checkpoint"), ("empty", "empty holds no CLIP")):
        with pytest.raises(DalleError, match=message):
            load_clip(tmp_path / path)


class Payload:
    """An object whose pickle, once believed, leaves a file behind."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, ...]:
        return os.system, (f"touch '{self.marker}'",)


@pytest.mark.parametrize("name", ["clip.pt", "hf/pytorch_model.bin", "open/open_clip_pytorch_model.bin"])
def test_payload_is_refused_by_file_and_global_and_never_runs(
    name: str, weights: dict[str, Tensor], hf_folder: Path, tmp_path: Path
) -> None:
    marker, path = tmp_path / "marker", tmp_path / name
    (hf_folder / "model.safetensors").unlink()
    (write_open_clip(tmp_path / "open", weights, {}) / "open_clip_model.safetensors").unlink()
    torch.save({"weights": Payload(marker)}, path)
    with pytest.raises(DalleError, match=rf"{path.name} is refused: it asks to run (posix|nt)\.system"):
        load_clip(path if name == "clip.pt" else path.parent)
    assert not marker.exists()
    pickle.loads(pickle.dumps(Payload(marker)))
    assert marker.exists()  # the payload works


def test_safetensors_go_before_a_pickle_beside_them(weights: dict[str, Tensor], tmp_path: Path) -> None:
    folder = write_open_clip(tmp_path, weights, {})
    shutil.copy(folder / "open_clip_config.json", folder / "open_clip_pytorch_model.bin")
    assert_same_weights(load_clip(folder), weights)
