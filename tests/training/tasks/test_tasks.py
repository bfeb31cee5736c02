"""The tasks: shares of a loss add up, figures do not depend on batching, and models learn."""

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from fused import fused
from torch import Tensor

from dalle_cli.config import (
    ClipRecipe,
    Cosine,
    DVAELossTable,
    DVAERecipe,
    TransformerLossTable,
    TransformerRecipe,
)
from dalle_cli.data.clip_tokenizer import frame
from dalle_cli.data.loader import Batch, collate
from dalle_cli.data.preprocessing import Example, pad_tokens
from dalle_cli.loading import build_clip, build_dvae, build_transformer, trained_clip_table
from dalle_cli.losses import (
    contrastive_loss,
    kl_to_uniform,
    logit_laplace_nll,
    text_image_cross_entropy,
)
from dalle_cli.metrics import code_counts, perplexity
from dalle_cli.models.dvae import map_pixels, relax
from dalle_cli.models.transformer import Transformer
from dalle_cli.recipe import load_recipe
from dalle_cli.runtime.distributed import single_process
from dalle_cli.training.tasks.clip import ClipTask
from dalle_cli.training.tasks.dvae import DiscreteVAETask
from dalle_cli.training.tasks.noise import gumbel_noise, noisy_tokens, uniform_noise
from dalle_cli.training.tasks.transformer import TransformerTask

CPU = torch.device("cpu")
DVAE_LOSS = DVAELossTable(
    kl_weight=Cosine(start=1.0, end=1.0, steps=1), temperature=Cosine(start=0.9, end=0.9, steps=1),
    dequantization=0.02, min_log_scale=-2.0,
)  # fmt: skip
RARELY = [
    "runtime.validation_samples=16", "runtime.report_every=10", "runtime.validate_every=10000",
    "runtime.preview_every=10000", "runtime.save_every=10000",
]  # fmt: skip
LENGTHS = [
    0,
    3,
    15,
    1,
    8,
    11,
    2,
]  # caption tokens; the second of two halves has more text than the first


def global_batch() -> Batch:
    rng = np.random.default_rng(5)
    examples = [
        Example(
            rng.integers(0, 256, (32, 32, 3), dtype=np.uint8),
            f"caption {i}",
            pad_tokens(list(rng.integers(0, 300, length)), 16),
        )
        for i, length in enumerate(LENGTHS)
    ]
    return collate(examples, list(range(100, 100 + len(LENGTHS))), bad=[])


def clip_batch() -> Batch:
    """The same, with captions as CLIP reads them; two are the same."""
    batch = global_batch()
    rows = [
        frame(row[row >= 0].tolist(), start_of_text=300, end_of_text=301, text_len=16)
        for row in batch.text_tokens.numpy()
    ]
    rows[6], captions = rows[2], [*batch.captions[:6], batch.captions[2]]
    return replace(batch, text_tokens=torch.from_numpy(np.stack(rows)), captions=captions)


def dvae_task(loss: DVAELossTable = DVAE_LOSS) -> DiscreteVAETask:
    recipe = load_recipe("dvae/tiny", [])
    assert isinstance(recipe, DVAERecipe)
    torch.manual_seed(1)
    return DiscreteVAETask(build_dvae(recipe.model), loss, seed=3)


def plain_transformer() -> Transformer:
    recipe = load_recipe("transformer/tiny", [])
    assert isinstance(recipe, TransformerRecipe)
    torch.manual_seed(2)
    transformer = build_transformer(recipe.model, 300)
    for head in (
        transformer.text_head,
        transformer.image_head,
    ):  # fresh heads are zero and pass no gradient on
        torch.nn.init.normal_(head.weight, std=0.1)
    return transformer


def transformer_task(token_noise: float = 0.0) -> TransformerTask:
    transformer = fused(plain_transformer())
    dvae = dvae_task().module.eval().requires_grad_(False)
    loss = TransformerLossTable(text_weight=0.125, caption_dropout=0.1, token_noise=token_noise)
    return TransformerTask(transformer, dvae, loss, seed=3)


def clip_task() -> ClipTask:
    recipe = load_recipe("clip/tiny", [])
    assert isinstance(recipe, ClipRecipe)
    torch.manual_seed(4)
    return ClipTask(build_clip(trained_clip_table(recipe.model, 300)), single_process(CPU))


TASKS = {"dvae": dvae_task, "transformer": transformer_task, "clip": clip_task}
BATCHES = {"dvae": global_batch, "transformer": global_batch, "clip": clip_batch}


def gradients_and_metrics(
    task: DiscreteVAETask | TransformerTask, size: int
) -> tuple[dict[str, Tensor], dict[str, float]]:
    totals: dict[str, float] = {}
    task.module.zero_grad()
    for part in global_batch().micro_batches(size, CPU):
        loss, metrics = task.loss(part, step=0)
        loss.backward()
        for name, value in {**metrics, "loss": loss.detach()}.items():
            totals[name] = totals.get(name, 0.0) + float(value)
    return {name: p.grad.clone() for name, p in task.module.named_parameters()}, totals


@pytest.mark.parametrize("kind", ["dvae", "transformer"])
@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_accumulated_micro_batches_equal_one_batch(kind: str, size: int) -> None:
    task = TASKS[kind]()
    whole, whole_metrics = gradients_and_metrics(task, 0)
    parts, parts_metrics = gradients_and_metrics(task, size)
    assert parts_metrics == pytest.approx(whole_metrics, rel=1e-6)
    errors = {name: float((parts[name] - gradient).norm()) for name, gradient in whole.items()}
    sizes = {name: float(gradient.norm()) for name, gradient in whole.items()}
    assert math.hypot(*errors.values()) <= 1e-6 * math.hypot(*sizes.values())
    for (
        name,
        size,
    ) in sizes.items():  # no key bias has a gradient but rounding's: a softmax does not see it
        assert size > 0 and (errors[name] <= 1e-5 * size or name.endswith("key.bias")), name


def batches_of(batch: Batch, size: int) -> Iterator[Batch]:
    """Cut a global batch into whole batches, as held-out samples come."""
    for part in batch.micro_batches(size, CPU):
        yield replace(
            part,
            global_size=len(part.positions),
            global_text_tokens=int((part.text_tokens >= 0).sum()),
        )


@pytest.mark.parametrize("kind", TASKS)
def test_held_out_figures_do_not_depend_on_the_batch_size(kind: str) -> None:
    task = TASKS[kind]()
    with torch.no_grad():
        figures = [task.validate(batches_of(BATCHES[kind](), size), step=0) for size in (7, 3, 1)]
    assert figures[1] == pytest.approx(figures[0], rel=1e-5) and figures[2] == pytest.approx(
        figures[0], rel=1e-5
    )


def test_health_of_the_codebook_follows_its_definitions() -> None:
    task, batch = dvae_task(), next(global_batch().micro_batches(0, CPU))
    images = batch.images.clone()
    images[:3, :, :16] = 1.0  # blank ground
    batch = replace(batch, images=images)
    dvae = task.module
    with torch.no_grad():
        figures = task.validate([batch], step=0)
        tokens = dvae.image_tokens(images)
        gumbel = gumbel_noise(
            3, batch.positions, shape=(4, 4, dvae.vocab_size), device=CPU
        ).movedim(-1, 1)
        mu, _ = dvae.decode_soft(relax(dvae.codebook_logits(images), 0.9, gumbel))
        errors = [
            float((p - images).square().mean())
            for p in (dvae.decode(tokens), (mu.sigmoid() - 0.1) / 0.8)
        ]
    used = set(tokens.flatten().tolist())
    assert (figures["valid/codes_used"], figures["valid/codes_dead"]) == (len(used), 64 - len(used))
    assert figures["valid/relaxed_gap_db"] == pytest.approx(
        10 * math.log10(errors[0] / errors[1]), abs=1e-3
    )
    seen = torch.cat(
        [tokens[:3, 8:].flatten(), tokens[3:].flatten()]
    )  # the lower half of the first three
    assert figures["valid/perplexity"] == pytest.approx(perplexity(code_counts(tokens, 64)))
    assert figures["valid/perplexity_without_blanks"] == pytest.approx(
        perplexity(code_counts(seen, 64))
    )


def test_held_out_loss_of_a_dvae_can_be_compared_over_the_run() -> None:
    batch = next(global_batch().micro_batches(0, CPU))
    task = dvae_task()
    moving = {"kl_weight": Cosine(start=0.0, end=1.0, steps=10)}
    moving["temperature"] = Cosine(start=4.0, end=0.9, steps=10)
    annealed = DiscreteVAETask(task.module, DVAE_LOSS.model_copy(update=moving), seed=3)
    with torch.no_grad():
        expected = task.validate([batch], step=0)
        figures = [annealed.validate([batch], step=step) for step in (0, 5, 10)]
    for one in figures:
        for name in ("valid/loss", "valid/nats_per_value", "valid/kl_per_cell", "valid/psnr"):
            assert one[name] == pytest.approx(expected[name], rel=1e-6)
    assert figures[0]["valid/relaxed_gap_db"] != figures[2]["valid/relaxed_gap_db"]


RAMPS = DVAELossTable(
    kl_weight=Cosine(start=0.0, end=2.0, steps=10),
    temperature=Cosine(start=1.0, end=0.5, steps=10),
    dequantization=0.05, min_log_scale=0.02,
)  # fmt: skip


def dvae_bound(
    task: DiscreteVAETask, images: Tensor, positions: list[int], *, temperature: float
) -> tuple[Tensor, Tensor]:
    """State both terms of the bound, with the noise of the positions and a floor that matters."""
    logits = task.module.codebook_logits(images)
    shape = (*logits.shape[2:], logits.shape[1])
    gumbel = gumbel_noise(3, positions, shape=shape, device=CPU).movedim(-1, 1)
    mu, log_scale = task.module.decode_soft(relax(logits, temperature, gumbel))
    assert (log_scale < 0.02).any()
    return logit_laplace_nll(map_pixels(images), mu, log_scale.clamp(min=0.02)), kl_to_uniform(
        logits
    )


def test_dvae_loss_is_the_published_bound_in_the_middle_of_its_ramps() -> None:
    task, batch = dvae_task(RAMPS), next(global_batch().micro_batches(0, CPU))
    noise = uniform_noise(3, batch.positions, shape=(3, 32, 32), device=CPU)
    noisy = (batch.images + 0.05 * noise).clamp(0, 1)
    with torch.no_grad():
        nll, kl = dvae_bound(task, noisy, batch.positions, temperature=0.75)
        loss, metrics = task.loss(batch, step=5)
    expected = (nll.sum() + 1.0 * kl.sum()) / (len(LENGTHS) * 3 * 32 * 32)
    torch.testing.assert_close(loss, expected, rtol=1e-6, atol=0)
    assert (metrics["train/kl_weight"], metrics["train/temperature"]) == pytest.approx((1.0, 0.75))


def test_held_out_loss_of_a_dvae_is_at_the_end_of_its_ramps_and_without_noise() -> None:
    task, batch = dvae_task(RAMPS), next(global_batch().micro_batches(0, CPU))
    with torch.no_grad():
        nll, kl = dvae_bound(task, batch.images, batch.positions, temperature=0.5)
        figures = task.validate([batch], step=5)
    expected = float(nll.sum() + 2.0 * kl.sum()) / (len(LENGTHS) * 3 * 32 * 32)
    assert figures["valid/loss"] == pytest.approx(expected, rel=1e-6)


def test_transformer_loss_is_the_published_one() -> None:
    task, batch = transformer_task(), next(global_batch().micro_batches(0, CPU))
    with torch.no_grad():
        image_tokens = task._dvae.image_tokens(batch.images)
        plain = plain_transformer()
        expected = text_image_cross_entropy(
            *plain(batch.text_tokens, image_tokens), batch.text_tokens, image_tokens
        )
        loss, _ = task.loss(batch, step=0)
        figures = task.validate([batch], step=0)
    torch.testing.assert_close(loss, expected, rtol=1e-6, atol=0)
    assert figures["valid/loss"] == pytest.approx(float(expected), rel=1e-5)


def test_token_noise_changes_what_is_predicted_from_but_not_what_is_predicted() -> None:
    task, batch = transformer_task(), next(global_batch().micro_batches(0, CPU))
    noisy = transformer_task(token_noise=0.9)
    with torch.no_grad():
        image_tokens = task._dvae.image_tokens(batch.images)
        given = noisy_tokens(
            image_tokens,
            task.module.image_vocab_size,
            noise=0.9,
            seed=noisy._seed,
            positions=batch.positions,
        )
        plain = plain_transformer()
        expected = text_image_cross_entropy(
            *plain(batch.text_tokens, given), batch.text_tokens, image_tokens
        )
        loss, _ = noisy.loss(batch, step=0)
        held_out = [one.validate([batch], step=0)["valid/loss"] for one in (task, noisy)]
    torch.testing.assert_close(loss, expected, rtol=1e-6, atol=0)
    assert held_out[0] == held_out[1]  # nothing is replaced in what is held out


def test_tokens_made_beforehand_stand_for_the_pictures() -> None:
    task, pictures = transformer_task(), global_batch()
    images = next(pictures.micro_batches(0, CPU)).images
    tokens = replace(
        pictures, images=images[:, :, :0, :0], image_tokens=task._dvae.image_tokens(images)
    )
    results = []
    for batch in (pictures, tokens):
        parts = list(batch.micro_batches(3, CPU))
        with torch.no_grad():
            losses = [float(task.loss(part, step=0)[0]) for part in parts]
            preview = task.preview(task.module, parts[0], 0)
            results.append((losses, task.validate(parts, 0), preview.tobytes()))
    assert results[0] == results[1]


def test_clip_loss_is_the_contrastive_one_of_the_whole_batch() -> None:
    task, batch = clip_task(), next(clip_batch().micro_batches(0, CPU))
    with torch.no_grad():
        logits, _ = task.module(task.module.normalise(batch.images), batch.text_tokens)
        loss, metrics = task.loss(batch, step=0)
        figures = task.validate([batch], step=0)
    torch.testing.assert_close(loss, contrastive_loss(logits), rtol=1e-6, atol=0)
    assert figures["valid/loss"] == pytest.approx(float(loss), rel=1e-5)
    assert (
        metrics["train/batch_accuracy"]
        == sum(int(row.argmax()) == i for i, row in enumerate(logits)) / 7
    )
    assert metrics["train/logit_scale"] == pytest.approx(1 / 0.07)


def test_every_parameter_of_clip_learns() -> None:
    task = clip_task()
    task.loss(next(clip_batch().micro_batches(0, CPU)), step=0)[0].backward()
    sizes = {
        name: float(parameter.grad.norm()) for name, parameter in task.module.named_parameters()
    }
    assert all(size > 0 for size in sizes.values())


def test_scale_of_clip_is_capped_before_a_loss_is_taken() -> None:
    task, batch = clip_task(), next(clip_batch().micro_batches(0, CPU))
    torch.nn.init.constant_(task.module.logit_scale, 9.0)
    assert float(task.loss(batch, step=0)[1]["train/logit_scale"]) == pytest.approx(100)
    assert float(task.module.logit_scale.detach()) == pytest.approx(math.log(100))


def test_pictures_with_the_same_caption_are_matches_of_one_anothers() -> None:
    task, batch = clip_task(), next(clip_batch().micro_batches(0, CPU))
    with torch.no_grad():
        alike = task.validate(
            [replace(batch, captions=[f"ring {i // 10}" for i in range(7)])], step=0
        )
        apart = task.validate([replace(batch, captions=[f"ring {i}" for i in range(7)])], step=0)
    recalls = [f"valid/{of}_recall_at_{k}" for of in ("text", "image") for k in (1, 5)]
    assert [alike[name] for name in recalls] == [1.0] * 4
    assert all(apart[name] < 1 for name in recalls if name.endswith("1"))


def test_captions_are_retrieved_by_pictures_and_pictures_by_captions() -> None:
    task, batch = clip_task(), next(clip_batch().micro_batches(0, CPU))
    batch = replace(batch, captions=[f"caption {i}" for i in range(7)])
    with torch.no_grad():
        both = task.module(task.module.normalise(batch.images), batch.text_tokens)
        figures = task.validate([batch], step=0)
    for name, logits in zip(("text", "image"), both, strict=True):
        ahead = [sum(score >= row[i] for score in row) - 1 for i, row in enumerate(logits.tolist())]
        for k in (1, 5):
            share = sum(n < k for n in ahead) / 7
            assert figures[f"valid/{name}_recall_at_{k}"] == pytest.approx(share)
    assert figures["valid/text_recall_at_5"] != figures["valid/image_recall_at_5"]


def test_noise_goes_by_the_draw_and_not_by_the_place_in_the_batch() -> None:
    task, batch = dvae_task(), global_batch()
    order = [4, 2, 6, 0, 1, 5, 3]
    shuffled = replace(
        batch, images=batch.images[order], positions=[batch.positions[i] for i in order]
    )
    moved = replace(batch, positions=[draw + 1 for draw in batch.positions])
    with torch.no_grad():
        losses = [
            float(task.loss(next(b.micro_batches(0, CPU)), step=0)[0])
            for b in (batch, shuffled, moved)
        ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)
    assert losses[0] != pytest.approx(losses[2], rel=1e-6)


@pytest.mark.thorough
@pytest.mark.parametrize("kind", ["transformer", "clip"])
def test_preview_of_an_endless_caption_is_drawn(kind: str, hang_guard: None) -> None:
    """A caption's length in a stranger's file must not decide how long training stands still."""
    task, batch = TASKS[kind](), next(BATCHES[kind]().micro_batches(0, CPU))
    with torch.no_grad():
        batches = [replace(batch, captions=["word " * n] * len(LENGTHS)) for n in (20_000, 200)]
        long, short = (task.preview(task.module, captioned, 0) for captioned in batches)
    assert long.size == short.size


@pytest.mark.thorough
def test_transformer_learns_sixteen_pairs_by_heart(
    tmp_path: Path, make_pairs: Callable, dalle: Callable
) -> None:
    data = make_pairs(tmp_path / "data", 16)
    still = ["optimizer.lr.start=0.0", "optimizer.lr.end=0.0", "training.steps=1"]
    ended = dalle(
        "train-dvae", "dvae/tiny", "--data", data, "--run", tmp_path / "dvae", *with_set(still)
    )
    assert ended.code == 0, ended.err
    changes = [
        *RARELY, "training.steps=450", "training.global_batch_size=16",
        "optimizer.weight_decay=0.0",
        "optimizer.warmup_steps=10", "optimizer.lr.start=3e-3", "optimizer.lr.end=5e-4",
        "optimizer.lr.steps=450",
        "ema.decay=0.9", "tokenizer.vocab_size=512", "tokenizer.dropout=0.0",
        "tokenizer.backend=tokenizers",
        "loss.caption_dropout=0.0", "loss.text_weight=0.0", "model.n_layers=2", "model.d_model=48",
        "model.text_len=12",
    ]  # fmt: skip
    words = [
        "--data",
        data,
        "--valid",
        data,
        "--dvae",
        tmp_path / "dvae",
        "--run",
        tmp_path / "run",
    ]
    ended = dalle("train-transformer", "transformer/tiny", *words, *with_set(changes))
    assert ended.code == 0, ended.err
    lines = figures_of(tmp_path / "run")
    assert lines[0]["train/image_token_accuracy"] < 0.6
    assert lines[-1]["valid/image_token_accuracy"] >= 0.999


@pytest.mark.thorough
def test_clip_learns_sixteen_pairs_by_heart(
    tmp_path: Path, make_pairs: Callable, dalle: Callable
) -> None:
    data = make_pairs(tmp_path / "data", 16)
    changes = [
        *RARELY, "training.steps=200", "training.global_batch_size=16",
        "optimizer.weight_decay=0.0",
        "optimizer.warmup_steps=10", "optimizer.lr.start=2e-3", "optimizer.lr.end=1e-4",
        "optimizer.lr.steps=200",
        "ema.decay=0.9", "tokenizer.vocab_size=512", "tokenizer.dropout=0.0",
        "tokenizer.backend=tokenizers",
    ]  # fmt: skip
    words = ["--data", data, "--valid", data, "--run", tmp_path / "run"]
    ended = dalle("train-clip", "clip/tiny", *words, *with_set(changes))
    assert ended.code == 0, ended.err
    lines = figures_of(tmp_path / "run")
    assert lines[0]["train/batch_accuracy"] < 0.5
    assert (lines[-1]["valid/text_recall_at_1"], lines[-1]["valid/image_recall_at_1"]) == (1, 1)


def figures_of(run: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def with_set(values: list[str]) -> list[str]:
    return [word for value in values for word in ("--set", value)]
