"""CLIP against transformers' with the same weights, the released layout, and what slots may see."""

import math
import re
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from dalle_cli.models.clip import PIXEL_MEAN, PIXEL_STD, Clip, Tower

VOCAB = 40
END = 37  # an id that is neither the largest nor one that transformers treats apart

SIZES: dict[str, dict[str, Any]] = {
    "heads of 12, half as wide inside": {
        **{
            "image_size": 12,
            "patch_size": 4,
            "text_len": 9,
            "d_embed": 20,
            "activation": "quick_gelu",
        },
        **{"vision": Tower(3, 24, 2, 12), "text": Tower(3, 36, 3, 18), "end_of_text": None},
    },
    "one layer of one head, exact activation": {
        **{"image_size": 16, "patch_size": 8, "text_len": 5, "d_embed": 48, "activation": "gelu"},
        **{"vision": Tower(1, 32, 1, 100), "text": Tower(1, 16, 1, 30), "end_of_text": END},
    },
    "heads of 64, four times as wide inside": {
        **{
            "image_size": 20,
            "patch_size": 4,
            "text_len": 13,
            "d_embed": 64,
            "activation": "quick_gelu",
        },
        **{"vision": Tower(2, 128, 2, 512), "text": Tower(2, 64, 1, 256), "end_of_text": END},
    },
}
IN_BLOCK = {
    "ln_1": "layer_norm1", "ln_2": "layer_norm2", "attn.out_proj": "self_attn.out_proj",
    "mlp.c_fc": "mlp.fc1", "mlp.c_proj": "mlp.fc2",
}  # fmt: skip
VITS = {  # embed, image, patch; layers, width, heads of the picture's tower and of the text's
    "ViT-B/32": (512, 224, 32, (12, 768, 12), (12, 512, 8), 151_277_313),
    "ViT-B/16": (512, 224, 16, (12, 768, 12), (12, 512, 8), 149_620_737),
    "ViT-L/14": (768, 224, 14, (24, 1024, 16), (12, 768, 12), 427_616_513),
    "ViT-L/14@336px": (768, 336, 14, (24, 1024, 16), (12, 768, 12), 427_944_193),
}


def random_clip(**changes: Any) -> Clip:
    """A small CLIP in which every parameter is random: nothing can hide behind zeros and ones."""
    torch.manual_seed(0)
    clip = Clip(text_vocab_size=VOCAB, **{**SIZES["heads of 12, half as wide inside"], **changes})
    for name, parameter in clip.named_parameters():
        torch.nn.init.normal_(
            parameter, mean=float(name.endswith(("ln_1.weight", "ln_2.weight"))), std=0.3
        )
    return clip.requires_grad_(False)


def released_vit(name: str) -> Clip:
    d_embed, image_size, patch_size, vision, text, _ = VITS[name]
    towers = [Tower(layers, width, heads, 4 * width) for layers, width, heads in (vision, text)]
    with torch.device("meta"):
        return Clip(image_size, patch_size, 77, 49408, d_embed, "quick_gelu", *towers)


@pytest.fixture
def clip() -> Clip:
    return random_clip()


@pytest.fixture
def pixels() -> Tensor:
    return torch.randn(3, 3, 12, 12, generator=torch.Generator().manual_seed(1))


def transformers_clip(sizes: dict[str, Any]) -> Any:
    """A random CLIP of transformers' with our sizes."""
    transformers = pytest.importorskip("transformers")

    def tower(own: Tower) -> dict[str, Any]:
        return {
            "num_hidden_layers": own.n_layers,
            "hidden_size": own.d_model,
            "num_attention_heads": own.n_heads,
            "intermediate_size": own.d_mlp,
            "hidden_act": sizes["activation"],
        }

    eos = 2 if sizes["end_of_text"] is None else sizes["end_of_text"]  # 2 stands for the largest
    lengths = {"max_position_embeddings": sizes["text_len"], "vocab_size": VOCAB}
    ids = {"bos_token_id": 0, "pad_token_id": 1, "eos_token_id": eos}
    config = transformers.CLIPConfig(
        text_config={**tower(sizes["text"]), **lengths, **ids},
        vision_config={
            **tower(sizes["vision"]),
            "image_size": sizes["image_size"],
            "patch_size": sizes["patch_size"],
        },
        projection_dim=sizes["d_embed"],
    )
    torch.manual_seed(5)
    reference = transformers.CLIPModel(config)
    for name, parameter in reference.named_parameters():
        mean = 1.0 if "norm" in name and name.endswith("weight") else 0.0
        torch.nn.init.normal_(
            parameter, mean, 0.3 if parameter.ndim < 2 else parameter[0].numel() ** -0.5
        )
    torch.nn.init.constant_(reference.logit_scale, 1.5)
    return reference.eval().requires_grad_(False)


def block_weights(theirs: dict[str, Tensor], prefix: str) -> Iterator[tuple[str, Tensor]]:
    for kind in ("weight", "bias"):
        parts = [theirs[f"{prefix}.self_attn.{part}_proj.{kind}"] for part in "qkv"]
        yield f"attn.in_proj_{kind}", torch.cat(parts)
        for ours, name in IN_BLOCK.items():
            yield f"{ours}.{kind}", theirs[f"{prefix}.{name}.{kind}"]


def with_released_names(theirs: dict[str, Tensor], sizes: dict[str, Any]) -> dict[str, Tensor]:
    """Rename transformers' weights by the specification's table."""
    text, vision = "text_model.embeddings", "vision_model.embeddings"
    ours = {
        "logit_scale": theirs["logit_scale"],
        "text_projection": theirs["text_projection.weight"].T,
        "visual.proj": theirs["visual_projection.weight"].T,
        "token_embedding.weight": theirs[f"{text}.token_embedding.weight"],
        "positional_embedding": theirs[f"{text}.position_embedding.weight"],
        "visual.conv1.weight": theirs[f"{vision}.patch_embedding.weight"],
        "visual.class_embedding": theirs[f"{vision}.class_embedding"],
        "visual.positional_embedding": theirs[f"{vision}.position_embedding.weight"],
    }
    for kind in ("weight", "bias"):
        ours[f"ln_final.{kind}"] = theirs[f"text_model.final_layer_norm.{kind}"]
        ours[f"visual.ln_pre.{kind}"] = theirs[f"vision_model.pre_layrnorm.{kind}"]
        ours[f"visual.ln_post.{kind}"] = theirs[f"vision_model.post_layernorm.{kind}"]
    for tower, prefix, model in (("text", "", "text_model"), ("vision", "visual.", "vision_model")):
        for i in range(sizes[tower].n_layers):
            for name, weights in block_weights(theirs, f"{model}.encoder.layers.{i}"):
                ours[f"{prefix}transformer.resblocks.{i}.{name}"] = weights
    return ours


def captions(n: int, text_len: int, n_ids: int = END) -> Tensor:
    """Random tokens below n_ids, after them and before others the end of text."""
    tokens = torch.randint(n_ids, (n, text_len), generator=torch.Generator().manual_seed(3))
    tokens[torch.arange(n), torch.arange(n) % (text_len - 1) + 1] = END
    return tokens


@pytest.mark.parametrize("name", SIZES)
def test_embeddings_and_logits_are_those_of_transformers(name: str) -> None:
    sizes = SIZES[name]
    reference, clip = (
        transformers_clip(sizes),
        Clip(text_vocab_size=VOCAB, **sizes).requires_grad_(False),
    )
    clip.load_state_dict(with_released_names(reference.state_dict(), sizes))
    side = sizes["image_size"]
    pixels = torch.randn(7, 3, side, side, generator=torch.Generator().manual_seed(2))
    tokens = captions(6, sizes["text_len"], END if sizes["end_of_text"] is None else VOCAB)
    theirs = reference(input_ids=tokens, pixel_values=pixels)
    images = reference.visual_projection(reference.vision_model(pixels).pooler_output)
    texts = reference.text_projection(reference.text_model(tokens).pooler_output)
    logits, expected = clip(pixels, tokens)[0], theirs.logits_per_image
    assert expected.std(dim=0).mean() > 0.05  # pictures differ: the comparison says something
    for found, wanted in (
        (clip.encode_image(pixels), images),
        (clip.encode_text(tokens), texts),
        (logits, expected),
    ):
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)
    assert torch.equal(logits.argsort(dim=0), expected.argsort(dim=0))
    assert torch.equal(logits.argsort(dim=1), expected.argsort(dim=1))


def test_parameters_have_the_names_and_shapes_of_the_released_ones() -> None:
    expected: dict[str, tuple[int, ...]] = {
        "logit_scale": (),
        "text_projection": (512, 512),
        "positional_embedding": (77, 512),
        "token_embedding.weight": (49408, 512),
        "visual.class_embedding": (768,),
        "visual.positional_embedding": (50, 768),
        "visual.proj": (768, 512),
        "visual.conv1.weight": (768, 3, 32, 32),
    }
    norms = {"ln_final": 512, "visual.ln_pre": 768, "visual.ln_post": 768}
    for prefix, width in (("", 512), ("visual.", 768)):
        for i in range(12):
            block = f"{prefix}transformer.resblocks.{i}"
            norms |= {f"{block}.ln_1": width, f"{block}.ln_2": width}
            for name, shape in {
                "attn.in_proj_": (3 * width, width),
                "attn.out_proj.": (width, width),
                "mlp.c_fc.": (4 * width, width),
                "mlp.c_proj.": (width, 4 * width),
            }.items():
                expected |= {f"{block}.{name}weight": shape, f"{block}.{name}bias": shape[:1]}
    expected |= {
        f"{name}.{kind}": (width,) for name, width in norms.items() for kind in ("weight", "bias")
    }
    assert {
        name: tuple(tensor.shape) for name, tensor in released_vit("ViT-B/32").state_dict().items()
    } == expected


@pytest.mark.parametrize("name", VITS)
def test_released_models_have_as_many_parameters_as_published(name: str) -> None:
    assert sum(parameter.numel() for parameter in released_vit(name).parameters()) == VITS[name][-1]


def test_matrices_are_all_but_gains_biases_the_class_embedding_and_the_scale(clip: Clip) -> None:
    matrices = {id(parameter) for parameter in clip.matrices()}
    others = {name for name, parameter in clip.named_parameters() if id(parameter) not in matrices}
    gains_and_biases = {
        name for name in clip.state_dict() if ".ln_" in f".{name}" or "bias" in name
    }
    assert others == gains_and_biases | {"visual.class_embedding", "logit_scale"}


ENDED = [1, 30, 8, 21, END]


@pytest.mark.parametrize(
    ("end_of_text", "after"),
    [
        (None, [0] * 4),
        (None, [36, 5, 20, 1]),
        (None, [END] * 4),
        (END, [0] * 4),
        (END, [39, 38, END, 39]),
    ],
)
def test_what_follows_the_end_of_text_changes_nothing(
    end_of_text: int | None, after: list[int]
) -> None:
    clip = random_clip(end_of_text=end_of_text)
    short, padded = (clip.encode_text(torch.tensor([tokens])) for tokens in (ENDED, ENDED + after))
    torch.testing.assert_close(padded, short, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("end_of_text", [None, END])
def test_every_token_up_to_the_end_counts(end_of_text: int | None) -> None:
    clip = random_clip(end_of_text=end_of_text)
    before = clip.encode_text(torch.tensor([ENDED + [0] * 4]))
    for position in range(len(ENDED) - 1):
        tokens = torch.tensor([ENDED + [0] * 4])
        tokens[0, position] += 1
        assert (clip.encode_text(tokens) - before).abs().max() > 1e-3


@pytest.mark.parametrize(("end_of_text", "n_read"), [(None, 4), (5, 3), (1, 1)])
def test_caption_is_read_at_its_largest_id_or_at_its_first_end(
    end_of_text: int | None, n_read: int
) -> None:
    tokens = torch.tensor([[1, 3, 5, 9, 5, 9, 1]])
    found = random_clip(end_of_text=end_of_text).encode_text(tokens)
    read_there = [
        random_clip().encode_text(tokens[:, :n]) for n in (1, 2, 3, 4)
    ]  # up to a last token, the largest
    assert [torch.allclose(found, there, atol=1e-5) for there in read_there] == [
        n == n_read for n in (1, 2, 3, 4)
    ]


def test_states_are_the_text_towers_outputs_and_project_to_the_embedding(clip: Clip) -> None:
    sizes = SIZES["heads of 12, half as wide inside"]
    reference = transformers_clip(sizes)
    clip.load_state_dict(with_released_names(reference.state_dict(), sizes))
    tokens = captions(6, 9)
    states = clip.text_states(tokens)
    expected = reference.text_model(tokens).last_hidden_state
    torch.testing.assert_close(states, expected, rtol=1e-5, atol=1e-5)
    assert torch.equal(clip.project_text(states, tokens), clip.encode_text(tokens))


def test_captions_are_read_one_by_one(clip: Clip) -> None:
    tokens = captions(8, 9)
    one_by_one = torch.cat([clip.encode_text(row[None]) for row in tokens])
    torch.testing.assert_close(clip.encode_text(tokens), one_by_one, rtol=1e-5, atol=1e-5)


def test_logits_are_scaled_cosines_of_all_pairs(clip: Clip, pixels: Tensor) -> None:
    tokens = captions(5, 9)
    per_image, per_text = clip(pixels, tokens)
    cosines = F.cosine_similarity(
        clip.encode_image(pixels)[:, None], clip.encode_text(tokens), dim=2
    )
    expected = math.exp(float(clip.logit_scale)) * cosines
    torch.testing.assert_close(per_image, expected, rtol=1e-5, atol=1e-5)
    assert torch.equal(per_text, per_image.T)


@pytest.mark.parametrize("shape", [[2, 3, 12, 16], [2, 1, 12, 12], [3, 12, 12]], ids=str)
def test_pixels_of_another_shape_are_told_with_both(shape: list[int], clip: Clip) -> None:
    with pytest.raises(ValueError, match=re.escape(f"expected pixels [B, 3, 12, 12], got {shape}")):
        clip.encode_image(torch.zeros(shape))


def test_captions_longer_than_there_is_room_are_told_with_both_lengths(clip: Clip) -> None:
    with pytest.raises(ValueError, match="room for 9 tokens, got 10"):
        clip.encode_text(torch.zeros(2, 10, dtype=torch.int64))


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"patch_size": 5}, "12 by 5"),
        ({"vision": Tower(1, 24, 5, 24)}, "24 by 5"),
        ({"text": Tower(1, 36, 7, 36)}, "36 by 7"),
    ],
)
def test_sizes_that_do_not_divide_are_named(changes: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        random_clip(**changes)


def test_scale_starts_as_published(clip: Clip) -> None:
    clip.reset_parameters()
    assert float(clip.logit_scale) == pytest.approx(2.659260, abs=1e-6)


@pytest.mark.parametrize(
    ("scale", "kept"), [(0.5, 0.5), (14.3, 14.3), (99.9, 99.9), (100.1, 100.0), (1e6, 100.0)]
)
def test_scale_is_capped_at_100_and_left_alone_below(scale: float, kept: float, clip: Clip) -> None:
    clip.logit_scale.fill_(math.log(scale))
    clip.clip_scale()
    assert torch.equal(clip.logit_scale, torch.tensor(math.log(kept)))


def test_normalisation_is_plain_arithmetic_per_channel() -> None:
    images = torch.rand(2, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    for changes, means, stds in (
        ({}, PIXEL_MEAN, PIXEL_STD),
        (
            {"pixel_mean": [0.5, 0.25, 0.0], "pixel_std": [1.0, 0.5, 2.0]},
            (0.5, 0.25, 0.0),
            (1.0, 0.5, 2.0),
        ),
    ):
        pixels = random_clip(**changes).normalise(images)
        for channel, (mean, std) in enumerate(zip(means, stds, strict=True)):
            expected = [(value - mean) / std for value in images[:, channel].flatten().tolist()]
            assert pixels[:, channel].flatten().tolist() == pytest.approx(
                expected, rel=1e-5, abs=1e-6
            )


def test_published_normalisation_is_the_released_one() -> None:
    assert PIXEL_MEAN == (0.48145466, 0.4578275, 0.40821073)
    assert PIXEL_STD == (0.26862954, 0.26130258, 0.27577711)


def fresh_clip() -> Clip:
    """Towers wide enough for their statistics, of unequal width and depth."""
    torch.manual_seed(0)
    clip = Clip(16, 4, 40, 500, 64, "gelu", Tower(3, 256, 4, 512), Tower(2, 192, 4, 300))
    return clip.requires_grad_(False)


@pytest.mark.parametrize(("prefix", "width", "n_layers"), [("", 192, 2), ("visual.", 256, 3)])
def test_blocks_start_as_published(prefix: str, width: int, n_layers: int) -> None:
    weights = dict(fresh_clip().named_parameters())
    expected = {
        "attn.in_proj_weight": width**-0.5,
        "attn.out_proj.weight": width**-0.5 * (2 * n_layers) ** -0.5,
        "mlp.c_fc.weight": (2 * width) ** -0.5,
        "mlp.c_proj.weight": width**-0.5 * (2 * n_layers) ** -0.5,
    }
    for i in range(n_layers):
        found = {
            name: float(weights[f"{prefix}transformer.resblocks.{i}.{name}"].std())
            for name in expected
        }
        assert found == pytest.approx(expected, rel=0.1)
        biases = [p for name, p in weights.items() if f"resblocks.{i}." in name and "bias" in name]
        assert not any(bias.any() for bias in biases)


def test_embeddings_and_projections_start_as_published() -> None:
    weights = dict(fresh_clip().named_parameters())
    expected = {
        "token_embedding.weight": 0.02,
        "positional_embedding": 0.01,
        "text_projection": 192**-0.5,
        "visual.class_embedding": 256**-0.5,
        "visual.positional_embedding": 256**-0.5,
        "visual.proj": 256**-0.5,
    }
    assert {name: float(weights[name].std()) for name in expected} == pytest.approx(
        expected, rel=0.1
    )
    means = {name: abs(float(weights[name].mean())) for name in expected}
    assert all(mean < 0.25 * expected[name] for name, mean in means.items())


def test_what_may_run_in_16_bits_is_the_patches_attention_and_perceptrons(clip: Clip) -> None:
    names = {id(module): name for name, module in clip.named_modules()}
    parts = {names[id(part)] for part in clip.half_precision_modules()}
    blocks = [f"{prefix}transformer.resblocks.{i}" for prefix in ("", "visual.") for i in range(3)]
    assert parts == {
        "visual.conv1",
        *(f"{block}.{part}" for block in blocks for part in ("attn", "mlp")),
    }
