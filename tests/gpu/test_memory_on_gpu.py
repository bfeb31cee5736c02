"""Memory on the GPU: what was taken, against what the plans and batch sizes count on."""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from trained_models import DEVICE

from dalle_cli.config import TrainedTransformerTable
from dalle_cli.data.loader import Batch
from dalle_cli.data.tokenizer import Tokenizer
from dalle_cli.generation.batch_size import USABLE_SHARE
from dalle_cli.generation.dalle import DallePipeline
from dalle_cli.generation.sampling import Sampler
from dalle_cli.loading import build_dvae, build_transformer
from dalle_cli.recipe import load_recipe
from dalle_cli.runtime.distributed import single_process
from dalle_cli.runtime.precision import Precision, apply_precision
from dalle_cli.schedules import fix_schedules
from dalle_cli.training.engines.choice import choose_engine, make_engine
from dalle_cli.training.loop import train_step
from dalle_cli.training.planning.memory import activation_bytes, largest_layer, state_bytes
from dalle_cli.training.tasks.model_setup import set_up_transformer
from dalle_cli.training.tasks.transformer import TransformerTask

pytestmark = pytest.mark.gpu

IS_SMALL = DEVICE == "cpu"
SIZES = {"text_len": 64, "grid_size": 16, "image_vocab_size": 2048, "kernel_size": 5}
SMALL = {"d_model": 64, "n_heads": 2, "n_layers": 4}
MODEL = SIZES | (SMALL if IS_SMALL else {"d_model": 1024, "n_heads": 16, "n_layers": 8})
WORDS = 2048
MICRO = 2 if IS_SMALL else 16


@pytest.fixture
def peak(device: torch.device) -> Callable[[Callable[[], object]], int]:
    """Return the bytes that a piece of work takes at most, above what was taken before."""

    def measure(work: Callable[[], object]) -> int:
        if device.type == "cpu":
            work()
            pytest.skip("nobody counts the bytes of a CPU's tensors")
        torch.cuda.empty_cache()
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        work()
        return torch.cuda.max_memory_allocated(device) - before

    return measure


def recipe_of(*changes: str) -> Any:
    sizes = [f"model.{key}={value}" for key, value in MODEL.items()]
    sizes += [f"tokenizer.vocab_size={WORDS}", f"training.global_batch_size={2 * MICRO}"]
    sizes += [f"runtime.micro_batch_size={MICRO}", *changes]
    return fix_schedules(load_recipe("transformer/tiny", sizes, kind="transformer"))


def train(recipe: Any, precision: Precision, device: torch.device) -> None:
    """Update a transformer twice, in two micro-batches, by tokens at random."""
    world = single_process(device)
    model, scales = set_up_transformer(recipe, WORDS, precision=precision, world=world)
    choice = choose_engine(recipe, 1, None)
    engine = make_engine(choice, recipe, model=model, world=world, scales=scales)
    task = TransformerTask(engine.module, None, recipe.loss, seed=0)  # type: ignore[arg-type]

    n, text_len, image_len = 2 * MICRO, MODEL["text_len"], MODEL["grid_size"] ** 2
    batch = Batch(
        images=torch.empty(n, 3, 0, 0),
        image_tokens=torch.randint(MODEL["image_vocab_size"], (n, image_len)),
        positions=list(range(n)),
        text_tokens=torch.randint(WORDS, (n, text_len)),
        captions=[""] * n,
        global_size=n,
        global_text_tokens=n * text_len,
        are_cut=[False] * n,
    )
    for _ in range(2):
        assert train_step(task, engine, batch, MICRO)[0]


@pytest.mark.parametrize(
    ("precision", "recomputed", "moments"),
    [
        ("fp32", False, "fp32"),
        ("bf16", False, "fp32"),
        ("bf16", True, "fp32"),
        ("bf16", False, "paper"),
    ],
)
def test_training_takes_what_info_tells(
    precision: Precision,
    recomputed: bool,
    moments: str,
    device: torch.device,
    peak: Callable,
    measured: Callable,
) -> None:
    changes = [f"runtime.activation_checkpointing={str(recomputed).lower()}"]
    recipe = recipe_of(*changes, f"optimizer.moments={moments}")
    with torch.device("meta"):
        model = build_transformer(recipe.model, WORDS)
    n_parameters = sum(parameter.numel() for parameter in model.parameters())
    n_matrices = sum(matrix.numel() for matrix in model.matrices())

    state = state_bytes(
        0,
        n_parameters,
        largest_layer(model),
        1,
        has_average=recipe.ema is not None and recipe.ema.every == 1,
        n_in_16_bits=n_matrices if moments == "paper" else 0,
    )
    table = TrainedTransformerTable(**recipe.model.model_dump(), text_vocab_size=WORDS)
    activations = MICRO * activation_bytes(table, precision, recomputed=recomputed)
    taken = peak(lambda: train(recipe, precision, device))
    measured("of the bytes told", taken / (state + activations), least=0.75, most=1.15)


@pytest.fixture(scope="module")
def pipeline(device: torch.device) -> DallePipeline:
    transformer = build_transformer(recipe_of().model, WORDS).to(device)
    sizes = ["model.image_size=128", "model.n_groups=4"]
    if not IS_SMALL:
        sizes += ["model.n_hidden=256", "model.n_init=128", "model.blocks_per_group=2"]
    dvae = build_dvae(load_recipe("dvae/tiny", sizes, kind="dvae").model).to(device)
    models = [model.eval().requires_grad_(False) for model in (transformer, dvae)]
    return DallePipeline(*models, Tokenizer([("r", "i")], "tokenizers"), device)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_sampling_takes_no_more_than_batch_sizes_count_on(
    precision: Precision,
    pipeline: DallePipeline,
    device: torch.device,
    peak: Callable,
    measured: Callable,
) -> None:
    n = 4 if IS_SMALL else 128
    dtype = torch.float32 if precision == "fp32" else torch.bfloat16
    text = torch.zeros(n, MODEL["text_len"], dtype=torch.int64, device=device)
    uniforms = torch.rand(n, MODEL["grid_size"] ** 2, dtype=torch.float64)

    def sample() -> None:
        Sampler(pipeline.transformer, pipeline.sampling, dtype=dtype).sample(text, uniforms)

    counted = replace(pipeline, dtype=dtype).sampling_bytes(n, n_captions=1)
    measured("of the bytes counted on", peak(sample) / counted, most=1 / USABLE_SHARE)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_decoding_takes_no_more_than_batch_sizes_count_on(
    precision: Precision,
    pipeline: DallePipeline,
    device: torch.device,
    peak: Callable,
    measured: Callable,
) -> None:
    n = 2 if IS_SMALL else 32
    dvae = deepcopy(pipeline.dvae)
    apply_precision(dvae, precision, device)
    tokens = torch.zeros(n, dvae.grid_size**2, dtype=torch.int64, device=device)
    counted = n * pipeline.decoding_bytes()
    with torch.inference_mode():
        taken = peak(partial(dvae.decode, tokens))
    measured("of the bytes counted on", taken / counted, most=1 / USABLE_SHARE)
