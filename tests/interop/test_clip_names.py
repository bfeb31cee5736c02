"""Names of CLIP's weights: both ways between our layout and the others, all accounted for."""

import re

import pytest
import torch
from torch import Tensor

from dalle_cli.interop.clip_names import NOT_WEIGHTS, from_hugging_face, from_openai
from dalle_cli.models.clip import Clip, Tower

WHOLE_NAMES = {
    "logit_scale": "logit_scale",
    "text_projection": "text_projection.weight",
    "visual.proj": "visual_projection.weight",
    "token_embedding.weight": "text_model.embeddings.token_embedding.weight",
    "positional_embedding": "text_model.embeddings.position_embedding.weight",
    "ln_final.weight": "text_model.final_layer_norm.weight",
    "ln_final.bias": "text_model.final_layer_norm.bias",
    "visual.conv1.weight": "vision_model.embeddings.patch_embedding.weight",
    "visual.class_embedding": "vision_model.embeddings.class_embedding",
    "visual.positional_embedding": "vision_model.embeddings.position_embedding.weight",
    "visual.ln_pre.weight": "vision_model.pre_layrnorm.weight",
    "visual.ln_pre.bias": "vision_model.pre_layrnorm.bias",
    "visual.ln_post.weight": "vision_model.post_layernorm.weight",
    "visual.ln_post.bias": "vision_model.post_layernorm.bias",
}
TOWERS = {"": "text_model", "visual.": "vision_model"}
BLOCK_PARTS = {
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
    "attn.out_proj": "self_attn.out_proj",
}


def to_hugging_face(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Say our weights in the other layout, by the published table of names."""
    found = {}
    for name, tensor in weights.items():
        if name in WHOLE_NAMES:
            found[WHOLE_NAMES[name]] = tensor.T if "proj" in name else tensor
            continue
        tower, layer, part, kind = re.fullmatch(
            r"(|visual\.)transformer\.resblocks\.(\d+)\.(.+)[._](weight|bias)", name
        ).groups()
        block = f"{TOWERS[tower]}.encoder.layers.{layer}"
        if part == "attn.in_proj":
            for letter, third in zip("qkv", tensor.chunk(3), strict=True):
                found[f"{block}.self_attn.{letter}_proj.{kind}"] = third
        else:
            found[f"{block}.{BLOCK_PARTS[part]}.{kind}"] = tensor
    return found


@pytest.fixture
def weights() -> dict[str, Tensor]:
    """A CLIP whose every size differs, no two numbers alike; over ten layers, for two digits."""
    clip = Clip(6, 3, 5, 11, 7, "gelu", vision=Tower(2, 8, 2, 9), text=Tower(11, 10, 5, 13))
    torch.manual_seed(0)
    return {name: torch.randn_like(tensor) for name, tensor in clip.state_dict().items()}


def test_hugging_face_layout_comes_back_name_by_name(weights: dict[str, Tensor]) -> None:
    torch.testing.assert_close(from_hugging_face(to_hugging_face(weights)), weights, rtol=0, atol=0)


def test_order_of_a_files_names_does_not_matter(weights: dict[str, Tensor]) -> None:
    backwards = dict(reversed(to_hugging_face(weights).items()))
    torch.testing.assert_close(from_hugging_face(backwards), weights, rtol=0, atol=0)


def test_position_ids_of_older_files_are_no_weights(weights: dict[str, Tensor]) -> None:
    buffers = {
        f"{tower}.embeddings.position_ids": torch.arange(5)[None] for tower in TOWERS.values()
    }
    assert from_hugging_face(to_hugging_face(weights) | buffers).keys() == weights.keys()


@pytest.mark.parametrize("letter", "qkv")
def test_matrix_without_one_of_its_thirds_is_missing(
    letter: str, weights: dict[str, Tensor]
) -> None:
    other = to_hugging_face(weights)
    del other[f"text_model.encoder.layers.10.self_attn.{letter}_proj.weight"]
    assert weights.keys() - from_hugging_face(other).keys() == {
        "transformer.resblocks.10.attn.in_proj_weight"
    }


@pytest.mark.parametrize(
    "name",
    [
        "text_model.surprise",
        "vision_model.embeddings.position_ids.more",
        "vision_model.encoder.layers.0.layer_norm3.weight",
        "visual.trunk.blocks.0.weight",
        "text.surprise",
        "text.text_projection.bias",
        "transformer.resblocks.0.surprise",
    ],
)
def test_name_that_no_rule_knows_is_kept_as_one_more(name: str, weights: dict[str, Tensor]) -> None:
    extra = {name: torch.zeros(1)}
    for found in (
        from_hugging_face(to_hugging_face(weights) | extra),
        from_openai(weights | extra),
    ):
        assert len(found) == len(weights) + 1 and found.keys() > weights.keys()


def test_openai_layout_is_ours_but_for_three_numbers(weights: dict[str, Tensor]) -> None:
    found = from_openai(weights | {name: torch.tensor(7) for name in NOT_WEIGHTS})
    torch.testing.assert_close(found, weights, rtol=0, atol=0)


@pytest.mark.parametrize("is_prefixed", [True, False])
def test_open_clip_layout_comes_back_name_by_name(
    is_prefixed: bool, weights: dict[str, Tensor]
) -> None:
    def other(name: str) -> str:
        return (
            name
            if name.startswith("visual.") or name == "logit_scale" or not is_prefixed
            else f"text.{name}"
        )

    renamed = {
        other(name): tensor.reshape(1) if name == "logit_scale" else tensor
        for name, tensor in weights.items()
    }
    torch.testing.assert_close(from_openai(renamed), weights, rtol=0, atol=0)


def test_scale_for_each_of_several_classes_is_left_for_the_loader_to_refuse(
    weights: dict[str, Tensor],
) -> None:
    assert from_openai(weights | {"logit_scale": torch.zeros(2)})["logit_scale"].shape == (2,)
