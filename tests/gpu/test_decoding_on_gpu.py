"""Decoding on the GPU: captured and compiled steps are the plain ones, and these the CPU's."""

from collections.abc import Callable
from copy import deepcopy

import pytest
import torch
from test_models_on_gpu import relative_error
from torch import Tensor

from dalle_cli.generation.cached_transformer import CachedTransformer
from dalle_cli.generation.sampling import Sampler, SamplingSettings, candidate_uniforms
from dalle_cli.loading import build_transformer
from dalle_cli.models.transformer import Transformer
from dalle_cli.recipe import load_recipe
from dalle_cli.runtime.compilation import compile_step, has_compiler

pytestmark = pytest.mark.gpu

CPU = torch.device("cpu")
WORDS, N_CAPTIONS, N_SAMPLES = 40, 2, 6
OF_KERNELS = {torch.float32: 1e-5, torch.bfloat16: 0.01}  # captured ones may be others
WITHIN = {torch.float32: 1e-4, torch.bfloat16: 0.03}


@pytest.fixture(scope="module")
def model() -> Transformer:
    """Every parameter random, so that logits depend on everything before them."""
    torch.manual_seed(0)
    model = build_transformer(load_recipe("transformer/tiny", [], kind="transformer").model, WORDS)
    for parameter in model.requires_grad_(False).parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return model.eval()


def tokens(model: Transformer, seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    captions = torch.randint(WORDS, (N_CAPTIONS, model.text_len), generator=generator)
    captions[:, -3:] = -1
    captions[0, 0], captions[1, 0] = 0, 1  # no two alike
    shape = (N_SAMPLES, model.image_len)
    return captions, torch.randint(model.image_vocab_size, shape, generator=generator)


@torch.inference_mode()
def decode(
    decoder: CachedTransformer, step: Callable[..., Tensor], batches: list[tuple[Tensor, Tensor]]
) -> Tensor:
    """Step through the image tokens of batches that share a cache: logits [batches, I, B, Vi]."""
    device = decoder.positions.device
    cache, logits = decoder.new_cache(N_SAMPLES, N_CAPTIONS), []
    for captions, image in batches:
        decoder.prefill(captions.to(device), image[0, :0].to(device), cache)
        before = [torch.zeros_like(image[:, 0]), *image.unbind(1)]
        positions = torch.arange(image.shape[1], device=device)
        for p in range(len(positions)):
            previous = before[p].contiguous().to(device)
            # a captured step overwrites its result
            logits.append(step(previous, positions[p : p + 1], cache).clone())
    return torch.stack(logits)


@pytest.mark.parametrize("dtype", WITHIN, ids=str)
def test_captured_steps_are_the_plain_ones(
    dtype: torch.dtype, model: Transformer, device: torch.device, measured: Callable
) -> None:
    decoder = CachedTransformer(deepcopy(model).to(device), dtype)
    batches = [tokens(model, 1), tokens(model, 2)]  # the second replays what the first captured
    plain = decode(decoder, decoder, batches)
    captured = decode(decoder, compile_step(decoder), batches)
    measured("logits", relative_error([captured], [plain]), most=OF_KERNELS[dtype])
    on_cpu = decode(CachedTransformer(model), CachedTransformer(model), batches)
    measured("logits, from the CPU's", relative_error([plain], [on_cpu]), most=WITHIN[dtype])


@pytest.mark.filterwarnings("default")  # torch's own, of what it compiles
def test_compiled_steps_are_the_plain_ones(
    model: Transformer, device: torch.device, measured: Callable
) -> None:
    if not has_compiler(device):
        pytest.skip("nothing can compile a step here: it needs Triton and a C compiler")
    decoder = CachedTransformer(deepcopy(model).to(device), is_packed=False)
    batches = [tokens(model, 1), tokens(model, 2)]
    compiled = decode(decoder, compile_step(decoder, N_SAMPLES), batches)
    plain = decode(decoder, decoder, batches)
    measured("logits", relative_error([compiled], [plain]), most=1e-4)


@pytest.mark.parametrize(
    "settings",
    [
        SamplingSettings(),
        SamplingSettings(temperature=0),
        SamplingSettings(top_k=9, top_p=0.9),
        SamplingSettings(guidance=2.0),
    ],
    ids=["plain", "likeliest", "cut off", "guided"],
)
def test_same_seeds_sample_the_cpus_tokens(
    settings: SamplingSettings, model: Transformer, device: torch.device, measured: Callable
) -> None:
    """But where a random number lies within rounding of the border between two tokens."""
    captions, _ = tokens(model, 1)
    text = captions.repeat_interleave(N_SAMPLES // N_CAPTIONS, 0)
    numbers = list(range(N_SAMPLES))
    uniforms = candidate_uniforms(3, "a cat", numbers=numbers, n_tokens=model.image_len)
    found, expected = (
        Sampler(deepcopy(model).to(place), settings).sample(text.to(place), uniforms).cpu()
        for place in (device, CPU)
    )
    measured("tokens that differ", float((found != expected).double().mean()), most=0.02)
