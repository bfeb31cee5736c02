"""Training on a GPU, traced: every model in every precision, without a tensor on a wrong device.

In an update the host waits for the GPU once, for the norm of the gradients, since an update that is
not finite must not be applied.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from fake_cuda import ANSWERS, CUDA, FakeCuda, fake_cuda

from dalle_cli.config import ClipRecipe, DVAERecipe, EmaTable, Recipe, TransformerRecipe
from dalle_cli.data.clip_tokenizer import frame
from dalle_cli.data.loader import Batch, collate
from dalle_cli.data.preprocessing import Example, pad_tokens
from dalle_cli.data.unclip.clip_embeddings import BatchEmbeddings
from dalle_cli.loading import build_clip, build_dvae, build_embedding_codec, trained_clip_table
from dalle_cli.models import flex_attention
from dalle_cli.recipe import load_recipe
from dalle_cli.runtime.distributed import World, single_process
from dalle_cli.runtime.precision import Precision
from dalle_cli.schedules import fix_schedules
from dalle_cli.scoring.clip_scorer import ClipScorer
from dalle_cli.training.engines.powersgd import PowerSGD
from dalle_cli.training.engines.replica import ReplicaEngine
from dalle_cli.training.loop import train_step
from dalle_cli.training.optimization.gradient_scaling import GradientScales
from dalle_cli.training.tasks.clip import ClipTask
from dalle_cli.training.tasks.dvae import DiscreteVAETask
from dalle_cli.training.tasks.model_setup import set_up_clip, set_up_dvae, set_up_transformer
from dalle_cli.training.tasks.transformer import TransformerTask
from dalle_cli.training.tasks.unclip.fitted_codec import codec_table
from dalle_cli.training.tasks.unclip.setups import (
    autoregressive_prior_setup,
    decoder_setup,
    prior_setup,
)

KINDS = ["dvae", "transformer", "clip", "prior", "prior-autoregressive", "decoder"]
CHANGES = {  # so that samplers take few steps
    "prior": ["model.diffusion.n_steps=4"],
    "decoder": ["model.diffusion.n_steps=4"],
    "transformer": ["model.n_layers=3", "loss.token_noise=0.1"],
}
VOCAB_SIZE, TEXT_LEN = 300, 16
NORM = ["aten._local_scalar_dense.default"]  # the one wait of an update


@pytest.fixture
def gpu() -> Iterator[FakeCuda]:
    with fake_cuda() as gpu:
        yield gpu


def recipe_of(kind: str, *changes: str) -> Any:
    found: Recipe = load_recipe(f"{kind}/tiny", [*CHANGES.get(kind, []), *changes])
    return fix_schedules(found)


def batch_of(kind: str) -> Batch:
    """Three samples, in the host's memory."""
    rng = np.random.default_rng(0)
    examples = []
    for i in range(3):
        ids = rng.integers(0, VOCAB_SIZE, 3 * i).tolist()
        text = pad_tokens(ids, TEXT_LEN)
        if kind not in ("dvae", "transformer"):
            text = frame(
                ids, start_of_text=VOCAB_SIZE, end_of_text=VOCAB_SIZE + 1, text_len=TEXT_LEN
            )
        square = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)
        is_small = kind == "decoder"
        examples.append(
            Example(
                square[:16, :16] if is_small else square,
                f"caption {i}",
                text_tokens=None if kind == "dvae" else text,
                clip_pixels=square if is_small else None,
            )
        )
    return collate(examples, list(range(3)), bad=[])


def frozen_clip() -> ClipScorer:
    recipe = recipe_of("clip")
    assert isinstance(recipe, ClipRecipe)
    clip = build_clip(trained_clip_table(recipe.model, VOCAB_SIZE))
    clip.eval().requires_grad_(False).to(CUDA)
    return ClipScorer(clip, None, CUDA)  # type: ignore[arg-type]  # nothing is to be tokenized


def set_up(
    kind: str, recipe: Any, precision: Precision, world: World
) -> tuple[Any, GradientScales | None, Any]:
    """Return a model without values, its scales, and what makes its task."""
    if isinstance(recipe, DVAERecipe):
        model, scales = set_up_dvae(recipe, precision=precision, device=CUDA)
        return model, scales, lambda model: DiscreteVAETask(model, recipe.loss, 0)
    if isinstance(recipe, TransformerRecipe):
        dvae = build_dvae(recipe_of("dvae").model).requires_grad_(False).to(CUDA)
        dvae.grid_size = recipe.model.grid_size
        transformer, scales = set_up_transformer(
            recipe, VOCAB_SIZE, precision=precision, world=world
        )
        return (
            transformer,
            scales,
            lambda model: TransformerTask(model, dvae=dvae, loss=recipe.loss, seed=0),
        )
    if isinstance(recipe, ClipRecipe):
        table = trained_clip_table(recipe.model, VOCAB_SIZE)
        clip = set_up_clip(table, 0, precision=precision, device=CUDA)
        return clip, None, lambda model: ClipTask(model, world)

    options: dict[str, Any] = {"precision": precision, "world": world, "scorer": frozen_clip()}
    if kind == "prior-autoregressive":
        options["codec"] = build_embedding_codec(codec_table(recipe.model)).to(CUDA)
    make = {
        "prior": prior_setup,
        "prior-autoregressive": autoregressive_prior_setup,
        "decoder": decoder_setup,
    }[kind]
    setup = make(recipe, **options)
    return setup.model, setup.scales, setup.task_on


def engine_and_task(
    gpu: FakeCuda, kind: str, precision: Precision = "fp32", *changes: str, ema_every: int = 1
) -> tuple[ReplicaEngine, Any]:
    recipe, world = recipe_of(kind, *changes), single_process(CUDA)
    with gpu.building():
        model, scales, task_on = set_up(kind, recipe, precision, world)
    engine = ReplicaEngine(
        model,
        recipe.optimizer,
        ema=EmaTable(decay=0.9, every=ema_every),
        world=world,
        scales=scales,
    )
    return engine, task_on(engine.module)


def places(engine: ReplicaEngine) -> set[str]:
    groups = engine.state().tensors
    return {tensor.device.type for group in groups.values() for tensor in group.values()}


@pytest.mark.thorough
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("kind", KINDS)
def test_update_stays_on_the_gpu_and_waits_for_it_once(
    kind: str, precision: Precision, gpu: FakeCuda
) -> None:
    if (kind, precision) == ("clip", "fp16"):
        pytest.skip("a recipe of a CLIP refuses fp16")
    engine, task = engine_and_task(gpu, kind, precision)
    batch = batch_of(kind)
    gpu.waits.clear()
    for step in (1, 2):  # the second one with moments
        is_applied, metrics = train_step(task, engine, batch, 0 if kind == "clip" else 2)
        assert is_applied and engine.step == step
        assert gpu.waits == NORM * step
    assert metrics["train/loss"].device == CUDA
    assert places(engine) == {"cuda"}


@pytest.mark.thorough
@pytest.mark.parametrize("kind", KINDS)
def test_validation_and_preview_stay_on_the_gpu(kind: str, gpu: FakeCuda) -> None:
    engine, task = engine_and_task(gpu, kind, "bf16")
    batches = list(batch_of(kind).micro_batches(2, CUDA))
    with engine.averaged(), torch.no_grad():
        assert "valid/loss" in task.validate(batches, 1)
    with engine.whole_model() as whole, torch.no_grad():
        assert task.preview(whole, batches[0], 1).width > 0


@pytest.mark.thorough
def test_moments_in_16_bits_and_an_average_in_host_memory_make_nobody_wait(gpu: FakeCuda) -> None:
    sixteen = "optimizer.moments=paper"
    engine, task = engine_and_task(gpu, "transformer", "fp16", sixteen, ema_every=2)
    batch = batch_of("transformer")
    gpu.waits.clear()
    for _ in range(4):  # of which two send weights to the average
        train_step(task, engine, batch, 0)
    assert gpu.waits == NORM * 4
    assert {w.device.type for w in engine.inference_weights().values()} == {"cpu"}
    moments = engine.state().tensors["exp_avg"].values()
    assert {moment.dtype for moment in moments} == {torch.int16, torch.float32}
    with engine.averaged():
        assert {p.device.type for p in engine.module.parameters()} == {"cuda"}


@pytest.mark.parametrize(("in_16_bits", "n_waits"), [(False, 2), (True, 3)])
def test_compression_waits_for_the_gpu_to_know_of_each_sum_whether_it_is_finite(
    in_16_bits: bool, n_waits: int, gpu: FakeCuda, monkeypatch: pytest.MonkeyPatch
) -> None:
    are_finite = torch.ops.aten._local_scalar_dense.default
    monkeypatch.setitem(ANSWERS, are_finite, lambda answer: True)
    shapes = {"wide": (8, 20), "tall": (21, 9), "uncompressed": (2, 30)}
    powersgd = PowerSGD(shapes, 3, seed=0, n_ranks=2, device=CUDA, in_16_bits=in_16_bits)
    gradients = {name: torch.zeros(shape, device=CUDA) for name, shape in shapes.items()}
    gpu.waits.clear()
    powersgd.reduce(gradients, lambda numbers: None)
    powersgd.settle(is_applied=True)
    assert gpu.waits == NORM * n_waits
    assert {error.device for error in powersgd.errors.values()} == {CUDA}


def test_embeddings_and_tokens_made_beforehand_go_to_the_gpu(gpu: FakeCuda) -> None:
    encoded = BatchEmbeddings(torch.ones(3, 32), torch.ones(3, 32), torch.ones(3, TEXT_LEN, 32))
    batch = batch_of("prior")
    batch = Batch(**{**vars(batch), "embeddings": encoded, "image_tokens": torch.ones(3, 16)})
    for part in batch.micro_batches(2, CUDA):
        assert part.embeddings is not None and part.image_tokens is not None
        moved = [part.images, part.text_tokens, part.image_tokens, *part.embeddings]
        assert {tensor.device for tensor in moved} == {CUDA}
    assert gpu.waits == []


@pytest.mark.thorough
@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize("is_recomputed", ["false", "true"])
def test_flex_attention_trains_on_the_gpu(is_recomputed: str, gpu: FakeCuda) -> None:
    flex_attention._compiled.cache_clear()
    try:
        changes = ("runtime.attention=flex", f"runtime.activation_checkpointing={is_recomputed}")
        engine, task = engine_and_task(gpu, "transformer", "bf16", *changes)
        gpu.waits.clear()
        assert set(engine.module.attend) == {"row", "column", "convolutional"}
        train_step(task, engine, batch_of("transformer"), 0)
        assert gpu.waits == NORM
    finally:
        flex_attention._compiled.cache_clear()


def test_model_that_is_left_on_the_host_is_refused(gpu: FakeCuda) -> None:
    """The test of the tests above."""
    engine, task = engine_and_task(gpu, "transformer")
    engine.module.row_position.fake_device = torch.device("cpu")
    with pytest.raises(Exception, match="same device"):
        train_step(task, engine, batch_of("transformer"), 0)
