"""Folders of transformers' CLIPModel become the same model; any that differs is an error."""

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from dalle_cli.errors import DalleError
from dalle_cli.interop.clip_checkpoints import read_public_clip
from dalle_cli.interop.clip_names import from_hugging_face
from dalle_cli.loading import build_clip, load_clip
from dalle_cli.models.clip import PIXEL_MEAN, PIXEL_STD, Clip

Config = dict[str, Any]


def write_json(path: Path, content: object) -> None:
    path.write_text(json.dumps(content))


def change_json(path: Path, change: Callable[[Config], object]) -> None:
    content = json.loads(path.read_text())
    change(content)
    write_json(path, content)


# Hugging Face: heads are not width / 64, MLPs not 4 widths, and no two sizes of a model are equal
HF_CONFIGS: dict[str, Config] = {
    "largest id ends": {
        "projection_dim": 28,
        "text_config": {
            "hidden_size": 48,
            "intermediate_size": 80,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "max_position_embeddings": 9,
            "vocab_size": 60,
            "hidden_act": "quick_gelu",
            "eos_token_id": 2,
        },
        "vision_config": {
            "hidden_size": 40,
            "intermediate_size": 96,
            "num_hidden_layers": 3,
            "num_attention_heads": 5,
            "image_size": 24,
            "patch_size": 8,
            "hidden_act": "quick_gelu",
        },
    },
    "id inside ends": {
        "projection_dim": 20,
        "text_config": {
            "hidden_size": 24,
            "intermediate_size": 100,
            "num_hidden_layers": 3,
            "num_attention_heads": 3,
            "max_position_embeddings": 12,
            "vocab_size": 50,
            "hidden_act": "gelu",
            "eos_token_id": 7,
        },
        "vision_config": {
            "hidden_size": 36,
            "intermediate_size": 52,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "image_size": 20,
            "patch_size": 5,
            "hidden_act": "gelu",
        },
    },
    "last id ends": {
        "projection_dim": 66,
        "text_config": {
            "hidden_size": 64,
            "intermediate_size": 30,
            "num_hidden_layers": 1,
            "num_attention_heads": 8,
            "max_position_embeddings": 7,
            "vocab_size": 40,
            "hidden_act": "quick_gelu",
            "eos_token_id": 39,
        },
        "vision_config": {
            "hidden_size": 128,
            "intermediate_size": 70,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "image_size": 16,
            "patch_size": 16,
            "hidden_act": "quick_gelu",
        },
    },
}
SMALL = HF_CONFIGS["last id ends"]
TOWERS = ("text_config", "vision_config")
UNUSED_TOKENS = {
    "bos_token_id": 0,
    "pad_token_id": 1,
}  # whose defaults lie outside of a small vocabulary


@pytest.fixture(scope="module")
def transformers() -> ModuleType:
    """The library, a reference here and nowhere else; to import it takes seconds."""
    return pytest.importorskip("transformers")


def make_reference(transformers: ModuleType, config: Config, randomise: Callable) -> nn.Module:
    torch.manual_seed(0)
    text = UNUSED_TOKENS | config["text_config"]
    model = transformers.CLIPModel(transformers.CLIPConfig(**config | {"text_config": text})).eval()
    randomise(model)
    return model


@pytest.fixture(scope="module")
def reference(transformers: ModuleType, randomise: Callable) -> nn.Module:
    return make_reference(transformers, SMALL, randomise)


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
    name: str, transformers: ModuleType, randomise: Callable, tmp_path: Path
) -> None:
    model, sizes = make_reference(transformers, HF_CONFIGS[name], randomise), HF_CONFIGS[name]
    model.save_pretrained(tmp_path)
    clip = load_clip(tmp_path)
    side, text_config = sizes["vision_config"]["image_size"], sizes["text_config"]
    pixels = torch.randn(5, 3, side, side)
    tokens = torch.randint(
        8, text_config["vocab_size"] - 1, (6, text_config["max_position_embeddings"])
    )
    tokens[:, 3] = tokens[::2, 5] = (
        text_config["vocab_size"] - 1
    )  # the largest, where it ends captions
    if name == "id inside ends":
        tokens[:, 2], tokens[1::2, 6] = 7, 7
    images = model.visual_projection(model.vision_model(pixel_values=pixels).pooler_output)
    texts = model.text_projection(model.text_model(input_ids=tokens).pooler_output)
    logits = model(pixel_values=pixels, input_ids=tokens).logits_per_image
    torch.testing.assert_close(clip.encode_image(pixels), images, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(clip.encode_text(tokens), texts, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(clip(pixels, tokens)[0], logits, rtol=1e-5, atol=1e-5)
    assert clip(pixels, tokens)[0].argsort().equal(logits.argsort())
    assert (
        F.normalize(images).std(dim=0).min() > 1e-3 and F.normalize(texts).std(dim=0).min() > 1e-3
    )  # worth ranking


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


def test_weights_are_read_as_they_are_stored(reference: nn.Module, hf_folder: Path) -> None:
    """What turns out not to fit must not have been made larger first."""
    halves = {name: tensor.half() for name, tensor in reference.state_dict().items()}
    save_file(halves, hf_folder / "model.safetensors")
    assert {tensor.dtype for tensor in read_public_clip(hf_folder).weights.values()} == {
        torch.float16
    }


def test_sixteen_bit_file_comes_out_in_32_bits(
    reference: nn.Module, expected: dict[str, Tensor], tmp_path: Path
):
    halves = {name: tensor.half() for name, tensor in reference.state_dict().items()}
    reference.config.save_pretrained(tmp_path)
    save_file(halves, tmp_path / "model.safetensors")
    assert_same_weights(
        load_clip(tmp_path), {name: tensor.half().float() for name, tensor in expected.items()}
    )


def old_style(config: Config) -> None:
    """Keep the sizes where files of 2022 have them, beside a short copy."""
    for tower in ("text", "vision"):
        config[f"{tower}_config_dict"] = config[f"{tower}_config"]
    config["text_config"], config["vision_config"] = {}, None


def test_sizes_are_found_where_older_configs_have_them(
    expected: dict[str, Tensor], hf_folder: Path
) -> None:
    table = read_public_clip(hf_folder).table
    change_json(hf_folder / "config.json", old_style)
    assert read_public_clip(hf_folder).table == table
    assert_same_weights(load_clip(hf_folder), expected)


L_14 = {
    "text": {
        "hidden_size": 768,
        "intermediate_size": 3072,
        "num_attention_heads": 12,
        "projection_dim": 768,
    },
    "vision": {
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_attention_heads": 16,
        "num_hidden_layers": 24,
        "patch_size": 14,
        "projection_dim": 768,
    },
}
SPARSE_CONFIGS = {
    "nothing": {},
    "empty towers": {"projection_dim": 512, "text_config": {}, "vision_config": {}},
    "B/32 as published": {
        "projection_dim": 512,
        "text_config": {
            "bos_token_id": 0,
            "eos_token_id": 2,
            "model_type": "clip_text_model",
            "dropout": 0.0,
        },
        "text_config_dict": None,
        "vision_config": {"model_type": "clip_vision_model", "dropout": 0.0},
        "vision_config_dict": None,
        "logit_scale_init_value": 2.6592,
    },
    "B/16": {
        "projection_dim": 512,
        "text_config": {"eos_token_id": 2},
        "vision_config": {"patch_size": 16},
    },
    "L/14": {
        "projection_dim": 768,
        "text_config_dict": L_14["text"],
        "vision_config_dict": L_14["vision"],
    },
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
        theirs, ours = (
            from_hugging_face(transformers.CLIPModel(reference).state_dict()),
            build_clip(table).state_dict(),
        )
    assert {key: list(value.shape) for key, value in theirs.items()} == {
        k: list(v.shape) for k, v in ours.items()
    }
    heads = (reference.text_config.num_attention_heads, reference.vision_config.num_attention_heads)
    assert (table.text.n_heads, table.vision.n_heads) == heads
    assert (
        table.activation == reference.text_config.hidden_act == reference.vision_config.hidden_act
    )
    is_largest = reference.text_config.eos_token_id == 2
    assert table.end_of_text == (None if is_largest else reference.text_config.eos_token_id)


def test_normalisation_of_pixels_is_the_checkpoints_own(hf_folder: Path) -> None:
    clip = load_clip(hf_folder)
    assert (clip.pixel_mean, clip.pixel_std) == (PIXEL_MEAN, PIXEL_STD)
    pixels = {
        "image_mean": [0.5, 0.25, 0.125],
        "image_std": [0.5, 1, 2.0],
        "resample": 3,
        "size": 16,
        "crop_size": 16,
    }
    write_json(hf_folder / "preprocessor_config.json", pixels)
    clip = load_clip(hf_folder)
    assert (clip.pixel_mean, clip.pixel_std) == ((0.5, 0.25, 0.125), (0.5, 1, 2))


@pytest.mark.parametrize(
    "settings",
    [
        {"size": 16, "crop_size": 16},
        {"size": {"shortest_edge": 16}, "crop_size": {"height": 16, "width": 16}},
        {
            "size": {"shortest_edge": 16, "longest_edge": None},
            "rescale_factor": 0.00392156862745098,
        },
        {
            "do_resize": True,
            "do_center_crop": True,
            "do_rescale": True,
            "do_normalize": True,
            "do_convert_rgb": True,
        },
    ],
    ids=str,
)
@pytest.mark.parametrize("file", ["preprocessor_config.json", "processor_config.json"])
def test_pictures_may_be_prepared_as_ours_are(file: str, settings: Config, hf_folder: Path) -> None:
    write_json(
        hf_folder / file,
        {"image_processor": settings} if file.startswith("processor") else settings,
    )
    assert load_clip(hf_folder).image_size == 16


def test_what_transformers_writes_of_a_processor_is_taken(
    transformers: ModuleType, hf_folder: Path
) -> None:
    processor = transformers.CLIPImageProcessor(
        size={"shortest_edge": 16}, crop_size=16, image_mean=[0.5, 0.25, 0.125]
    )
    processor.save_pretrained(hf_folder)
    assert load_clip(hf_folder).pixel_mean == (0.5, 0.25, 0.125)


@pytest.mark.parametrize(
    ("file", "changes", "message"),
    [
        ("preprocessor_config.json", {"resample": 2}, "`resample`"),
        ("preprocessor_config.json", {"size": 24}, "`size`.* 16"),
        ("preprocessor_config.json", {"size": {"shortest_edge": 24}}, "`size`"),
        (
            "preprocessor_config.json",
            {"size": {"height": 16, "width": 16}},
            "`size`.*shortest_edge",
        ),
        ("preprocessor_config.json", {"size": {"shortest_edge": 16, "longest_edge": 20}}, "`size`"),
        ("preprocessor_config.json", {"size": {}}, "`size`"),
        ("preprocessor_config.json", {"crop_size": 15}, "`crop_size`"),
        ("preprocessor_config.json", {"crop_size": {"height": 16, "width": 12}}, "`crop_size`"),
        ("preprocessor_config.json", {"do_resize": False}, "`do_resize`"),
        ("preprocessor_config.json", {"do_center_crop": False}, "`do_center_crop`"),
        ("preprocessor_config.json", {"do_rescale": False}, "`do_rescale`"),
        ("preprocessor_config.json", {"do_normalize": None}, "`do_normalize`"),
        ("preprocessor_config.json", {"rescale_factor": 1 / 127.5}, "`rescale_factor`"),
        ("preprocessor_config.json", {"image_mean": [0.5]}, "`pixel_mean`"),
        ("preprocessor_config.json", {"image_std": [1.0, 1.0, 0.0]}, r"`pixel_std\.2`"),
        ("config.json", {"model_type": "siglip"}, "`model_type`.*'clip'.*siglip"),
        ("config.json", {"model_type": "\x1b[31mred"}, "`model_type`.*red"),
        ("config.json", {"model_type": None}, "`model_type`"),
        ("config.json", {"projection_dim": "28"}, "`projection_dim`"),
        (
            "config.json",
            {"text_config": {**SMALL["text_config"], "hidden_act": "gelu"}},
            "not supported.*activations",
        ),
        (
            "config.json",
            {"text_config": {**SMALL["text_config"], "hidden_act": "relu"}},
            "hidden_act",
        ),
        (
            "config.json",
            {"vision_config": {**SMALL["vision_config"], "layer_norm_eps": 1e-6}},
            "layer_norm_eps",
        ),
        (
            "config.json",
            {tower: {**SMALL[tower], "layer_norm_eps": 1e-6} for tower in TOWERS},
            "layer_norm_eps",
        ),
        (
            "config.json",
            {"vision_config": {**SMALL["vision_config"], "num_attention_heads": 5}},
            "n_heads",
        ),
        (
            "config.json",
            {"vision_config": {**SMALL["vision_config"], "patch_size": 0}},
            "patch_size",
        ),
        (
            "config.json",
            {"vision_config": {**SMALL["vision_config"], "image_size": [16, 16]}},
            "image_size",
        ),
        (
            "config.json",
            {"vision_config": {**SMALL["vision_config"], "image_size": 10**15}},
            "is not a CLIP: `image_size`",
        ),
        (
            "config.json",
            {"text_config": {**SMALL["text_config"], "vocab_size": 10**18}},
            "does not hold",
        ),
        (
            "config.json",
            {"text_config": {**SMALL["text_config"], "hidden_size": 72}},
            "does not hold.*weights",
        ),
        (
            "config.json",
            {"text_config": {**SMALL["text_config"], "num_hidden_layers": 10**12}},
            "n_layers",
        ),
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
@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"3", b"null", b"\xff\xfe", b"[" * 100_000, b'"kind"']
)
def test_damaged_json_is_told(file: str, content: bytes, hf_folder: Path) -> None:
    (hf_folder / file).write_bytes(content)
    with pytest.raises(DalleError) as caught:
        load_clip(hf_folder)
    assert caught.value.message.startswith(str(hf_folder))


@pytest.mark.parametrize(
    "damage", ["missing", "one more", "misshapen", "without a third", "unlike thirds", "deep"]
)
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
        weights[key if damage == "unlike thirds" else "visual_projection.weight"] = torch.zeros(
            3, 3, 3
        )
        name = "weights"
    save_file(weights, file)
    with pytest.raises(DalleError) as caught:
        load_clip(hf_folder)
    assert name in caught.value.message and caught.value.message.startswith(str(hf_folder))
