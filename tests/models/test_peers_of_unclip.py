"""Prior, U-Net and samplers against those of diffusers, with random weights, by maps of names."""

import re
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from dalle_cli.models.diffusion.noise_schedules import (
    NoiseSchedule,
    noise_schedule,
    strided_steps,
)
from dalle_cli.models.diffusion.samplers import Denoiser, sample_ancestral, sample_ddim
from dalle_cli.models.unclip.caption_encoders import CaptionInputs
from dalle_cli.models.unclip.diffusion_prior import DiffusionPrior
from dalle_cli.models.unclip.embedding_scale import scale_embeddings
from dalle_cli.models.unclip.unet import UNet, UNetAttention, UNetResBlock, UNetSizes

D, T, HEADS, WIDTH, LAYERS = 12, 7, 3, 8, 2
RMS = 1.0
NAMES = {
    "position": "positional_embedding",
    "query": "prd_embedding",
    "time.expand": "time_embedding.linear_1",
    "time.output": "time_embedding.linear_2",
    "caption_input": "encoder_hidden_states_proj",
    "text_input": "embedding_proj",
    "noisy_input": "proj_in",
    "final_norm": "norm_out",
    "output": "proj_to_clip_embeddings",
}
IN_BLOCK = {
    "ln_1": "norm1",
    "ln_2": "norm3",
    "attn.out_proj": "attn1.to_out.0",
    "mlp.c_fc": "ff.net.0.proj",
    "mlp.c_proj": "ff.net.2",
}

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
THEIR_PLACES = [  # of residual blocks and attentions
    (r"(down|up)\.(\d+)\.stages\.(\d+)\.block", r"\1_blocks.\2.resnets.\3"),
    (r"(down|up)\.(\d+)\.stages\.(\d+)\.attention", r"\1_blocks.\2.attentions.\3"),
    (r"(down|up)\.(\d+)\.resample", r"\1_blocks.\2.\1samplers.0"),
    (r"middle\.(\d+)\.block", r"mid_block.resnets.\1"),
    (r"middle\.(\d+)\.attention", r"mid_block.attentions.\1"),
]
BOTH = ("weight", "bias")


@pytest.fixture
def diffusers() -> Any:
    return pytest.importorskip("diffusers")


def grid(n: int) -> NoiseSchedule:
    return noise_schedule("cosine", 1000).respaced(strided_steps(1000, [n]))


def with_our_names(theirs: dict[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    for ours, name in NAMES.items():
        if name in theirs:
            yield ours, theirs[name].squeeze()
        else:
            yield from ((f"{ours}.{k}", theirs[f"{name}.{k}"]) for k in ("weight", "bias"))
    for i in range(LAYERS):
        block = f"transformer_blocks.{i}"
        for k in ("weight", "bias"):
            parts = [theirs[f"{block}.attn1.to_{part}.{k}"] for part in "qkv"]
            yield f"transformer.resblocks.{i}.attn.in_proj_{k}", torch.cat(parts)
            for ours, name in IN_BLOCK.items():
                yield f"transformer.resblocks.{i}.{ours}.{k}", theirs[f"{block}.{name}.{k}"]


def test_prior_is_that_of_diffusers(diffusers: Any) -> None:
    torch.manual_seed(0)
    theirs = diffusers.PriorTransformer(
        num_attention_heads=HEADS,
        attention_head_dim=WIDTH,
        num_layers=LAYERS,
        embedding_dim=D,
        num_embeddings=T,
    ).eval()
    for parameter in theirs.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    ours = DiffusionPrior(D, T, LAYERS, HEADS * WIDTH, HEADS, embedding_rms=RMS, d_text=D)
    weights = dict(with_our_names(theirs.state_dict()))
    missing, unexpected = ours.load_state_dict(weights, strict=False)
    assert set(missing) == {"null_caption", "null_text"} and not unexpected

    noisy, text = torch.randn(2, 4, D)
    states, timesteps = torch.randn(4, T, D), torch.tensor([0, 13, 500, 999])
    is_given = torch.arange(T) < torch.tensor([[1], [4], [7], [5]])
    with torch.no_grad():
        expected = theirs(
            noisy,
            timesteps,
            proj_embedding=scale_embeddings(text, RMS),
            encoder_hidden_states=states,
            attention_mask=is_given,
        ).predicted_image_embedding
        found = ours(
            noisy,
            timesteps,
            CaptionInputs(states, is_given),
            text,
            torch.zeros(4, dtype=torch.bool),
        )
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def by_head(parts: list[Tensor], n_heads: int) -> Tensor:
    """Put the rows of several matrices, or their biases, head by head."""
    heads = [part.unflatten(0, (n_heads, -1)) for part in parts]
    return torch.stack(heads, dim=1).flatten(0, 2)


def their_place(name: str) -> str:
    for ours, theirs in THEIR_PLACES:
        if re.fullmatch(ours, name):
            return re.sub(ours, theirs, name)
    raise AssertionError(name)


def unet_weights(unet: UNet, theirs: dict[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    for ours, name in OUTSIDE_BLOCKS.items():
        yield from ((f"{ours}.{k}", theirs[f"{name}.{k}"]) for k in BOTH)
    for name, module in unet.named_modules():
        if isinstance(module, UNetResBlock):
            place = their_place(name)
            for ours, part in IN_RES_BLOCK.items():
                if f"{place}.{part}.weight" in theirs:
                    yield from ((f"{name}.{ours}.{k}", theirs[f"{place}.{part}.{k}"]) for k in BOTH)
        if isinstance(module, UNetAttention):
            place, n_heads = their_place(name), module.n_heads
            for k in BOTH:
                own = [theirs[f"{place}.to_{part}.{k}"] for part in "qkv"]
                context = [theirs[f"{place}.add_{part}_proj.{k}"] for part in "kv"]
                yield f"{name}.query_key_value.{k}", by_head(own, n_heads)
                yield f"{name}.context_key_value.{k}", by_head(context, n_heads)
                yield f"{name}.norm.{k}", theirs[f"{place}.group_norm.{k}"]
                yield f"{name}.output.{k}", theirs[f"{place}.to_out.0.{k}"]


def test_unet_is_that_of_diffusers(diffusers: Any) -> None:
    torch.manual_seed(0)
    down, up = "SimpleCrossAttnDownBlock2D", "SimpleCrossAttnUpBlock2D"
    theirs = diffusers.UNet2DConditionModel(
        sample_size=16,
        in_channels=3,
        out_channels=6,
        down_block_types=("ResnetDownsampleBlock2D", down, down),
        mid_block_type="UNetMidBlock2DSimpleCrossAttn",
        up_block_types=(up, up, "ResnetUpsampleBlock2D"),
        block_out_channels=(16, 32, 48),
        layers_per_block=2,
        norm_num_groups=8,
        attention_head_dim=8,
        cross_attention_dim=12,
        class_embed_type="identity",
        resnet_time_scale_shift="scale_shift",
    ).eval()
    for parameter in theirs.parameters():
        fan_in = parameter[0].numel() if parameter.ndim > 1 else 4
        torch.nn.init.normal_(parameter, std=fan_in**-0.5)

    sizes = UNetSizes(16, 16, (1, 2, 3), 2, (8, 4), d_head=8, n_groups=8, dropout=0.0)
    ours = UNet(sizes, n_in=3, n_out=6, d_context=12)
    ours.load_state_dict(dict(unet_weights(ours, theirs.state_dict())))

    x, timesteps = torch.randn(2, 3, 16, 16), torch.tensor([3, 700])
    vector, context = torch.randn(2, 64), torch.randn(2, 5, 12)
    with torch.no_grad():
        expected = theirs(x, timesteps, encoder_hidden_states=context, class_labels=vector).sample
        found = ours(x, timesteps, vector, context)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("n", [7, 25, 64])
@pytest.mark.parametrize(
    ("predicts", "theirs", "variance"),
    [("clean", "sample", "fixed_small_log"), ("noise", "epsilon", "learned_range")],
)
def test_ancestral_sampling_is_that_of_diffusers(
    diffusers: Any, n: int, predicts: Any, theirs: str, variance: str
) -> None:
    scheduler = diffusers.UnCLIPScheduler(
        prediction_type=theirs, variance_type=variance, clip_sample=True, clip_sample_range=1.0
    )
    scheduler.set_timesteps(n)
    schedule = grid(n)
    assert scheduler.timesteps.flip(0).tolist() == schedule.timesteps.tolist()

    is_learned = variance == "learned_range"
    shape = (2, 3, 4, 4)
    start = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    their_generator, our_generator = (torch.Generator().manual_seed(1) for _ in range(2))

    def net(noisy: Tensor, timesteps: Tensor) -> Tensor:
        prediction = torch.tanh(noisy * (1 + timesteps[0] / 1000))
        return torch.cat([prediction, noisy.sin()], dim=1) if is_learned else prediction

    x, steps = start, scheduler.timesteps.tolist()
    for i, t in enumerate(steps):
        before = steps[i + 1] if i + 1 < n else None
        output = net(x, torch.tensor([t]))
        step = scheduler.step(output, t, x, prev_timestep=before, generator=their_generator)
        x = step.prev_sample

    denoiser = Denoiser(
        net,
        schedule,
        predicts,
        limit=1.0,
        log_variances=None if is_learned else schedule.posterior_log_variance,
    )
    found = sample_ancestral(
        denoiser, start, lambda index: torch.randn(shape, generator=our_generator)
    )
    torch.testing.assert_close(found, x, rtol=1e-4, atol=1e-4)


def test_ddim_is_that_of_diffusers(diffusers: Any) -> None:
    n = 20
    scheduler = diffusers.DDIMScheduler(
        beta_schedule="squaredcos_cap_v2",
        clip_sample=True,
        clip_sample_range=1.0,
        set_alpha_to_one=True,
        timestep_spacing="leading",
    )
    scheduler.set_timesteps(n)
    steps = scheduler.timesteps.flip(0).tolist()
    schedule = noise_schedule("cosine", 1000).respaced(steps)

    def net(noisy: Tensor, timesteps: Tensor) -> Tensor:
        return torch.tanh(noisy * (1 + timesteps[0] / 1000))

    x = start = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    for t in scheduler.timesteps.tolist():
        output = net(x, torch.tensor([t]))
        x = scheduler.step(output, t, x, use_clipped_model_output=True).prev_sample
    denoiser = Denoiser(
        net, schedule, "noise", limit=1.0, log_variances=schedule.posterior_log_variance
    )
    torch.testing.assert_close(sample_ddim(denoiser, start), x, rtol=1e-4, atol=1e-4)
