"""The diffusion prior against that of diffusers, with random weights, by a map of names.

Everything of the peer has a place in ours, which has two parameters more: what stands for a caption
that is left out. The peer takes CLIP's outputs for an empty caption instead, so ours are set to
what its projections make of these. It reads embeddings as they come; ours scales them first.
"""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dalle_cli.models.diffusion.noise_schedules import noise_schedule, strided_steps
from dalle_cli.models.unclip.caption_encoders import CaptionInputs
from dalle_cli.models.unclip.diffusion_prior import DiffusionPrior, sample_embeddings
from dalle_cli.models.unclip.embedding_scale import scale_embeddings

B, D, T, HEADS, WIDTH, LAYERS = 4, 12, 7, 3, 8, 2
RMS = 1.0
OUTSIDE_BLOCKS = {
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


@pytest.fixture
def diffusers() -> Any:
    return pytest.importorskip("diffusers")


def with_our_names(theirs: dict[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    yield "position", theirs["positional_embedding"].squeeze()
    yield "query", theirs["prd_embedding"].squeeze()
    for kind in ("weight", "bias"):
        for ours, name in OUTSIDE_BLOCKS.items():
            yield f"{ours}.{kind}", theirs[f"{name}.{kind}"]
        for i in range(LAYERS):
            block, our_block = f"transformer_blocks.{i}", f"transformer.resblocks.{i}"
            parts = [theirs[f"{block}.attn1.to_{part}.{kind}"] for part in "qkv"]
            yield f"{our_block}.attn.in_proj_{kind}", torch.cat(parts)
            for ours, name in IN_BLOCK.items():
                yield f"{our_block}.{ours}.{kind}", theirs[f"{block}.{name}.{kind}"]


@pytest.fixture
def priors(diffusers: Any) -> tuple[Any, DiffusionPrior]:
    """The peer and ours, with the same random weights."""
    torch.manual_seed(0)
    theirs = diffusers.PriorTransformer(
        num_attention_heads=HEADS,
        attention_head_dim=WIDTH,
        num_layers=LAYERS,
        embedding_dim=D,
        num_embeddings=T,
    ).eval()
    for parameter in theirs.parameters():
        nn.init.normal_(parameter, std=0.3)
    ours = DiffusionPrior(D, T, LAYERS, HEADS * WIDTH, HEADS, embedding_rms=RMS, d_text=D)
    weights = dict(with_our_names(theirs.state_dict()))
    missing, unexpected = ours.load_state_dict(weights, strict=False)
    assert set(missing) == {"null_caption", "null_text"} and not unexpected
    return theirs.requires_grad_(False), ours.requires_grad_(False)


@pytest.fixture
def captions() -> CaptionInputs:
    is_given = torch.arange(T) < torch.tensor([[1], [4], [7], [5]])
    states = torch.randn(B, T, D, generator=torch.Generator().manual_seed(1))
    return CaptionInputs(states, is_given)


def random(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def their_prediction(
    theirs: Any, noisy: Tensor, timesteps: Tensor, captions: CaptionInputs, text: Tensor
) -> Tensor:
    return theirs(
        noisy,
        timesteps,
        proj_embedding=text,
        encoder_hidden_states=captions.values,
        attention_mask=captions.is_given,
    ).predicted_image_embedding


def test_prior_is_that_of_diffusers(
    priors: tuple[Any, DiffusionPrior], captions: CaptionInputs
) -> None:
    theirs, ours = priors
    noisy, text, timesteps = random(2, B, D), random(3, B, D), torch.tensor([0, 13, 500, 999])
    scaled = scale_embeddings(text, RMS)
    expected = their_prediction(theirs, noisy, timesteps, captions, scaled)
    found = ours(noisy, timesteps, captions, text, torch.zeros(B, dtype=torch.bool))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("guidance", [1.0, 4.0])
def test_guided_samples_are_those_of_diffusers_prior_and_scheduler(
    diffusers: Any,
    priors: tuple[Any, DiffusionPrior],
    captions: CaptionInputs,
    guidance: float,
) -> None:
    """One loop as its pipeline has it: guided, clipped, and a step back by the posterior."""
    theirs, ours = priors
    text, empty_text, empty = random(3, B, D), random(4, D), random(5, T, D)
    scaled, empty_scaled = scale_embeddings(text, RMS), scale_embeddings(empty_text[None], RMS)
    ours.null_caption.copy_(ours.caption_input(empty))
    ours.null_text.copy_(ours.text_input(empty_scaled)[0])
    no_captions = CaptionInputs(empty.expand(B, T, D), torch.ones(B, T, dtype=torch.bool))

    n, limit, start = 10, 2.0, random(6, B, D)
    scheduler = diffusers.UnCLIPScheduler(
        prediction_type="sample", variance_type="fixed_small_log", clip_sample_range=limit
    )
    scheduler.set_timesteps(n)
    x, generator = start, torch.Generator().manual_seed(7)
    for t, before in zip(scheduler.timesteps, [*scheduler.timesteps[1:], None], strict=True):
        told = their_prediction(theirs, x, t, captions, scaled)
        untold = their_prediction(theirs, x, t, no_captions, empty_scaled.expand(B, D))
        output = untold + guidance * (told - untold)
        x = scheduler.step(output, t, x, prev_timestep=before, generator=generator).prev_sample

    generator.manual_seed(7)
    schedule = noise_schedule("cosine", 1000).respaced(strided_steps(1000, [n]))
    found = sample_embeddings(
        ours,
        schedule,
        captions,
        text,
        start=start[:, None],
        noise_at=lambda index: torch.randn(B, D, generator=generator)[:, None],
        log_variances=schedule.posterior_log_variance,
        guidance=guidance,
        limit=limit,
    )
    torch.testing.assert_close(found[:, 0], F.normalize(x, dim=1), rtol=1e-3, atol=1e-4)
