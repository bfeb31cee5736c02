"""U-Nets and the decoder against those of diffusers, with random weights, by maps of names.

The peer of the decoder is karlo's: a U-Net and what projects embeddings and captions for it. It
adds CLIP's text embedding to the vector, for which ours has no place, so that it is given zeros,
and it leaves out a caption by an empty one, whose slots ours takes for its padding. The text
transformer of the published decoder has no peer there.
"""

import re
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dalle_cli.models.unclip.caption_encoders import CaptionInputs, StateCaptions
from dalle_cli.models.unclip.decoder import UnclipDecoder, decoder_net
from dalle_cli.models.unclip.embedding_scale import scale_embeddings
from dalle_cli.models.unclip.unet import UNet, UNetAttention, UNetResBlock, UNetSizes

IN_RES_BLOCK = {
    "norm_1": "norm1",
    "conv_1": "conv1",
    "scale_shift": "time_emb_proj",
    "norm_2": "norm2",
    "conv_2": "conv2",
    "skip": "conv_shortcut",
}
OUTSIDE_BLOCKS = {
    "input": "conv_in",
    "time.expand": "time_embedding.linear_1",
    "time.output": "time_embedding.linear_2",
    "norm": "conv_norm_out",
    "output": "conv_out",
}
PLACES = [  # of residual blocks and attentions
    (r"(down|up)\.(\d+)\.stages\.(\d+)\.block", r"\1_blocks.\2.resnets.\3"),
    (r"(down|up)\.(\d+)\.stages\.(\d+)\.attention", r"\1_blocks.\2.attentions.\3"),
    (r"(down|up)\.(\d+)\.resample", r"\1_blocks.\2.\1samplers.0"),
    (r"middle\.(\d+)\.block", r"mid_block.resnets.\1"),
    (r"middle\.(\d+)\.attention", r"mid_block.attentions.\1"),
]
BOTH = ("weight", "bias")
B, D, T, E, W, SIDE = 2, 10, 5, 64, 12, 16
CHANNELS = {"block_out_channels": (16, 32, 48), "layers_per_block": 2, "norm_num_groups": 8}
CROSS_DOWN, CROSS_UP = "SimpleCrossAttnDownBlock2D", "SimpleCrossAttnUpBlock2D"


def sizes(*attention_sizes: int) -> UNetSizes:
    return UNetSizes(SIDE, 16, (1, 2, 3), 2, attention_sizes, d_head=8, n_groups=8, dropout=0.0)


@pytest.fixture
def diffusers() -> Any:
    return pytest.importorskip("diffusers")


def randomised(model: Any, seed: int = 0) -> Any:
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        fan_in = parameter[0].numel() if parameter.ndim > 1 else 4
        nn.init.normal_(parameter, std=fan_in**-0.5, generator=generator)
    return model.eval().requires_grad_(False)


def random(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def their_place(name: str) -> str:
    for ours, theirs in PLACES:
        if re.fullmatch(ours, name):
            return re.sub(ours, theirs, name)
    raise AssertionError(name)


def unet_weights(unet: UNet, theirs: dict[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    for ours, name in OUTSIDE_BLOCKS.items():
        yield from ((f"{ours}.{kind}", theirs[f"{name}.{kind}"]) for kind in BOTH)
    for name, module in unet.named_modules():
        if isinstance(module, UNetResBlock):
            yield from block_weights(name, theirs)
        if isinstance(module, UNetAttention):
            yield from attention_weights(name, module.n_heads, theirs)


def block_weights(name: str, theirs: dict[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    place = their_place(name)
    parts = {ours: part for ours, part in IN_RES_BLOCK.items() if f"{place}.{part}.bias" in theirs}
    for ours, part in parts.items():
        yield from ((f"{name}.{ours}.{kind}", theirs[f"{place}.{part}.{kind}"]) for kind in BOTH)


def attention_weights(
    name: str, n_heads: int, theirs: dict[str, Tensor]
) -> Iterator[tuple[str, Tensor]]:
    place = their_place(name)
    for kind in BOTH:
        own = [theirs[f"{place}.to_{part}.{kind}"] for part in "qkv"]
        context = [theirs[f"{place}.add_{part}_proj.{kind}"] for part in "kv"]
        yield f"{name}.query_key_value.{kind}", by_head(own, n_heads)
        yield f"{name}.context_key_value.{kind}", by_head(context, n_heads)
        yield f"{name}.norm.{kind}", theirs[f"{place}.group_norm.{kind}"]
        yield f"{name}.output.{kind}", theirs[f"{place}.to_out.0.{kind}"]


def by_head(parts: list[Tensor], n_heads: int) -> Tensor:
    """Put the rows of several matrices, or their biases, head by head."""
    heads = [part.unflatten(0, (n_heads, -1)) for part in parts]
    return torch.stack(heads, dim=1).flatten(0, 2)


def their_conditioned_unet(diffusers: Any) -> Any:
    return randomised(
        diffusers.UNet2DConditionModel(
            sample_size=SIDE,
            in_channels=3,
            out_channels=6,
            down_block_types=("ResnetDownsampleBlock2D", CROSS_DOWN, CROSS_DOWN),
            mid_block_type="UNetMidBlock2DSimpleCrossAttn",
            up_block_types=(CROSS_UP, CROSS_UP, "ResnetUpsampleBlock2D"),
            attention_head_dim=8,
            cross_attention_dim=W,
            class_embed_type="identity",
            resnet_time_scale_shift="scale_shift",
            **CHANNELS,
        )
    )


def test_unet_with_context_is_that_of_diffusers(diffusers: Any) -> None:
    theirs = their_conditioned_unet(diffusers)
    ours = UNet(sizes(8, 4), n_in=3, n_out=6, d_context=W).requires_grad_(False)
    ours.load_state_dict(dict(unet_weights(ours, theirs.state_dict())))

    x, timesteps = random(1, B, 3, SIDE, SIDE), torch.tensor([3, 700])
    vector, context = random(2, B, E), random(3, B, T, W)
    expected = theirs(x, timesteps, encoder_hidden_states=context, class_labels=vector).sample
    found = ours(x, timesteps, vector, context)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_unet_without_attention_is_that_of_diffusers(diffusers: Any) -> None:
    """As upsamplers are: six channels in, three out, and nothing but the step as condition."""
    theirs = randomised(
        diffusers.UNet2DModel(
            sample_size=SIDE,
            in_channels=6,
            out_channels=3,
            down_block_types=("ResnetDownsampleBlock2D",) * 3,
            up_block_types=("ResnetUpsampleBlock2D",) * 3,
            add_attention=False,
            resnet_time_scale_shift="scale_shift",
            **CHANNELS,
        )
    )
    ours = UNet(sizes(), n_in=6, n_out=3).requires_grad_(False)
    ours.load_state_dict(dict(unet_weights(ours, theirs.state_dict())))
    x, timesteps = random(1, B, 6, SIDE, SIDE), torch.tensor([0, 999])
    torch.testing.assert_close(
        ours(x, timesteps), theirs(x, timesteps).sample, rtol=1e-4, atol=1e-4
    )


def their_projections() -> Any:
    from diffusers.pipelines.deprecated.unclip.text_proj import UnCLIPTextProjModel

    projections = UnCLIPTextProjModel(
        clip_embeddings_dim=D, time_embed_dim=E, cross_attention_dim=W
    )
    nn.init.zeros_(randomised(projections, seed=9).embedding_proj.bias)
    return projections


def decoder_weights(
    decoder: UnclipDecoder, unet: Any, projections: Any, empty: Tensor
) -> Iterator[tuple[str, Tensor]]:
    """empty: CLIP's outputs [T, D] for an empty caption."""
    for name, weight in unet_weights(decoder.unet, unet.state_dict()):
        yield f"unet.{name}", weight
    vector, slots = (
        projections.clip_image_embeddings_project_to_time_embeddings,
        projections.clip_extra_context_tokens_proj,
    )
    text, norm = (
        projections.encoder_hidden_states_proj,
        projections.text_encoder_hidden_states_norm,
    )
    yield "null_embedding", projections.learned_classifier_free_guidance_embeddings
    yield "captions.padding", norm(text(empty))
    for kind in BOTH:
        yield f"embedding_vector.{kind}", getattr(vector, kind)
        # rows go channel by channel there, and slot by slot here
        by_channel = getattr(slots, kind).unflatten(0, (W, 4))
        yield f"embedding_slots.{kind}", by_channel.transpose(0, 1).flatten(0, 1)
        yield f"captions.input.{kind}", getattr(text, kind)
        yield f"captions.norm.{kind}", getattr(norm, kind)


@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_guided_decoder_is_that_of_diffusers(diffusers: Any, guidance: float) -> None:
    unet, projections, empty = (
        their_conditioned_unet(diffusers),
        their_projections(),
        random(4, T, D),
    )
    decoder = UnclipDecoder(
        sizes(8, 4),
        patch_size=1,
        d_embed=D,
        d_context=W,
        embedding_rms=1.0,
        learns_variance=True,
        captions=StateCaptions(D, T, W),
    ).requires_grad_(False)
    decoder.load_state_dict(dict(decoder_weights(decoder, unet, projections, empty)))

    embeddings, states = random(5, B, D), random(6, B, T, D)
    noisy, timesteps = random(7, B, 3, SIDE, SIDE), torch.tensor([20, 981])
    context, vector = projections(
        image_embeddings=scale_embeddings(embeddings, 1.0),
        prompt_embeds=torch.zeros(2 * B, D),
        text_encoder_hidden_states=torch.cat([empty.expand(B, T, D), states]),
        do_classifier_free_guidance=True,
    )
    both = unet(
        torch.cat([noisy, noisy]),
        torch.cat([timesteps, timesteps]),
        encoder_hidden_states=context,
        class_labels=vector,
    ).sample
    (null, _), (noise, variance) = (half.split(3, dim=1) for half in both.chunk(2))
    expected = torch.cat([null + guidance * (noise - null), variance], dim=1)

    captions = CaptionInputs(states, torch.ones(B, T, dtype=torch.bool))
    net = decoder_net(decoder, embeddings, captions, guidance=guidance)
    torch.testing.assert_close(net(noisy, timesteps), expected, rtol=1e-4, atol=1e-4)
