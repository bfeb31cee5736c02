"""The tasks of DALL-E 2: shares of a loss add up, noise goes by the draw, dropped is gone."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from unclip_tasks import (
    CPU,
    LENGTHS,
    SEED,
    TASKS,
    batch_for,
    batches_of,
    codes_task,
    decoder_task,
    embedded,
    fitted_codec,
    global_batch,
    prior_task,
    small_clip,
    whole,
)

from dalle_cli.models.diffusion.noise_schedules import noise_schedule
from dalle_cli.models.diffusion.noising import add_noise
from dalle_cli.models.unclip.diffusion_prior import prior_loss
from dalle_cli.training.tasks.noise import normal_noise, timestep_indices, uniforms
from dalle_cli.training.tasks.unclip.clip_pairs import PairEncoder
from dalle_cli.training.tasks.unclip.embedding_figures import EmbeddingFigures

every_kind = pytest.mark.parametrize("kind", TASKS)
PRIORS = ["prior", "prior-autoregressive"]


def gradients_and_metrics(
    kind: str, size: int, *overrides: str
) -> tuple[dict[str, Tensor], dict[str, float]]:
    task, totals = TASKS[kind](*overrides), {}
    for part in batch_for(kind).micro_batches(size, CPU):
        loss, metrics = task.loss(part, step=0)
        loss.backward()
        for name, value in {**metrics, "loss": loss.detach()}.items():
            totals[name] = totals.get(name, 0.0) + float(value)
    return {name: p.grad for name, p in task.module.named_parameters()}, totals


@every_kind
@pytest.mark.parametrize("size", [1, 3])
def test_accumulated_micro_batches_equal_one_batch(kind: str, size: int) -> None:
    whole_gradients, whole_metrics = gradients_and_metrics(kind, 0)
    parts, parts_metrics = gradients_and_metrics(kind, size)
    assert parts_metrics == pytest.approx(whole_metrics, rel=1e-5)
    errors = [float((parts[name] - gradient).norm()) for name, gradient in whole_gradients.items()]
    sizes = [float(gradient.norm()) for gradient in whole_gradients.values()]
    assert math.hypot(*errors) <= 1e-5 * math.hypot(*sizes)


@every_kind
def test_every_parameter_learns(kind: str) -> None:
    """Of the keys' biases, by rounding alone: a softmax does not see them."""
    often = ["loss.caption_dropout=0.3"]
    often += ["loss.embedding_dropout=0.5"] if kind == "decoder" else []
    gradients, _ = gradients_and_metrics(kind, 0, *often)
    assert not [name for name, gradient in gradients.items() if not gradient.any()]


@pytest.mark.thorough
@every_kind
def test_held_out_figures_do_not_depend_on_the_batch_size(kind: str) -> None:
    task, batch = TASKS[kind](), batch_for(kind)
    with torch.no_grad():
        figures = [task.validate(batches_of(batch, size), step=0) for size in (7, 3, 1)]
    assert "valid/loss" in figures[0]
    for other in figures[1:]:
        assert other == pytest.approx(figures[0], rel=1e-4, abs=1e-6)


@every_kind
def test_noise_goes_by_the_draw_and_not_by_the_place_in_the_batch(kind: str) -> None:
    task, batch = TASKS[kind](), whole(batch_for(kind))
    order = [4, 2, 6, 0, 1, 5, 3]
    clip_images = batch.clip_images
    shuffled = replace(
        batch,
        images=batch.images[order],
        text_tokens=batch.text_tokens[order],
        clip_images=None if clip_images is None else clip_images[order],
        positions=[batch.positions[i] for i in order],
    )
    moved = replace(batch, positions=[position + 1 for position in batch.positions])
    with torch.no_grad():
        losses = [float(task.loss(part, step=0)[0]) for part in (batch, shuffled, moved)]
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
    if kind != "prior-autoregressive":  # which has no noise but what it leaves out
        assert losses[2] != pytest.approx(losses[0], rel=1e-5)


@pytest.mark.parametrize("kind", PRIORS)
def test_embeddings_made_beforehand_stand_for_pairs(kind: str) -> None:
    task, batch = TASKS[kind](), global_batch()
    with torch.no_grad():
        losses = [float(task.loss(whole(given), step=0)[0]) for given in (batch, embedded(batch))]
        figures = [
            task.validate([whole(given)], step=0)["valid/loss"]
            for given in (batch, embedded(batch))
        ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)
    assert figures[0] == pytest.approx(figures[1], rel=1e-6)


@every_kind
def test_previews_are_the_same_every_time(kind: str) -> None:
    task, batch = TASKS[kind](), whole(batch_for(kind))
    with torch.no_grad():
        first, again = (task.preview(task.module, batch, step) for step in (0, 5))
    assert first.size[0] > 100 and first.tobytes() == again.tobytes()


@pytest.mark.parametrize("kind", PRIORS)
def test_previews_of_embeddings_made_beforehand_are_grey(kind: str) -> None:
    task = TASKS[kind]()
    with torch.no_grad():
        sheet = task.preview(task.module, whole(embedded(global_batch())), 0)
    assert sheet.size[0] > 100


@pytest.mark.parametrize("kind", PRIORS)
def test_prior_that_drops_every_caption_does_not_read_them(kind: str) -> None:
    """As far as chances go: the share must stay below 1, and 0.999999 is above all seven."""
    task, batch = TASKS[kind]("loss.caption_dropout=0.999999"), whole(global_batch())
    others = replace(batch, text_tokens=batch.text_tokens.roll(1, 0))
    with torch.no_grad():
        losses = [float(task.loss(part, step=0)[0]) for part in (batch, others)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)


def test_decoder_that_drops_both_conditions_reads_neither() -> None:
    always = ["loss.caption_dropout=0.999999", "loss.embedding_dropout=0.999999"]
    task, batch = decoder_task(*always), whole(batch_for("decoder"))
    others = replace(
        batch, text_tokens=batch.text_tokens.roll(1, 0), clip_images=batch.clip_images.roll(1, 0)
    )
    with torch.no_grad():
        losses = [float(task.loss(part, step=0)[0]) for part in (batch, others)]
        read = [float(decoder_task().loss(part, step=0)[0]) for part in (batch, others)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)
    assert read[0] != pytest.approx(read[1], rel=1e-6)


def test_prior_loss_is_that_of_the_draws() -> None:
    task, batch = prior_task(), whole(global_batch())
    pairs = PairEncoder(small_clip(), reads_tokens=False)(batch)
    chances = uniforms(SEED, batch.positions, purpose="dropped", shape=(1,), device=CPU)
    with torch.no_grad():
        expected = prior_loss(
            task.module,
            noise_schedule("cosine", 40),
            pairs.images,
            captions=pairs.captions,
            text_embeddings=pairs.texts,
            is_dropped=chances.squeeze(1) < 0.1,
            noise=normal_noise(SEED, batch.positions, purpose="noise", shape=(32,), device=CPU),
            index=timestep_indices(SEED, batch.positions, 40),
        )
        loss, _ = task.loss(batch, step=0)
    torch.testing.assert_close(loss, expected.mean(), rtol=1e-6, atol=0)


@pytest.mark.parametrize("predicts", ["noise", "clean"])
def test_decoder_loss_is_the_squared_error_of_what_it_predicts(predicts: str) -> None:
    never = ["loss.caption_dropout=0.0", "loss.embedding_dropout=0.0", "model.unet.dropout=0.0"]
    task = decoder_task("model.learns_variance=false", f"model.predicts={predicts}", *never)
    batch, schedule = whole(batch_for("decoder")), noise_schedule("cosine", 40)
    noise = normal_noise(SEED, batch.positions, purpose="noise", shape=(3, 16, 16), device=CPU)
    index = timestep_indices(SEED, batch.positions, 40)
    pairs = PairEncoder(small_clip(), reads_tokens=False)(batch)
    none = torch.zeros(len(LENGTHS), dtype=torch.bool)
    with torch.no_grad():
        clean = 2 * batch.images - 1
        noisy = add_noise(schedule, clean, noise=noise, index=index)
        predicted = task.module(noisy, index, pairs.images, pairs.captions, none, none)
        loss, metrics = task.loss(batch, step=0)
    target = {"noise": noise, "clean": clean}[predicts]
    torch.testing.assert_close(loss, (predicted - target).square().mean(), rtol=1e-5, atol=0)
    assert "train/bound" not in metrics


def test_decoder_that_learns_variances_adds_the_bound() -> None:
    with torch.no_grad():
        loss, metrics = decoder_task().loss(whole(batch_for("decoder")), step=0)
        figures = decoder_task().validate([whole(batch_for("decoder"))], step=0)
    assert float(loss) == pytest.approx(
        float(metrics["train/mse"]) + float(metrics["train/bound"]), rel=1e-6
    )
    assert figures["valid/loss"] == pytest.approx(figures["valid/mse"] + figures["valid/bound"])


def test_dropout_is_for_training_alone() -> None:
    batch = whole(batch_for("decoder"))
    with torch.no_grad():
        trained = [float(decoder_task(*o).loss(batch, 0)[0]) for o in ([], NO_DROPOUT)]
        held_out = [decoder_task(*o).validate([batch], 0)["valid/loss"] for o in ([], NO_DROPOUT)]
    assert trained[0] != trained[1] and held_out[0] == held_out[1]


NO_DROPOUT = ["model.unet.dropout=0.0"]


def test_fresh_codes_cost_what_a_uniform_guess_does() -> None:
    task = codes_task()
    torch.nn.init.zeros_(task.module.head.weight)
    torch.nn.init.zeros_(task.module.head.bias)
    with torch.no_grad():
        figures = task.validate([whole(global_batch())], step=0)
    assert figures["valid/loss"] == pytest.approx(math.log(16), rel=1e-6)
    codec, pairs = fitted_codec(), PairEncoder(small_clip(), reads_tokens=False)
    images = pairs(whole(global_batch())).images
    cosines = torch.cosine_similarity(codec.decode(codec.encode(images)), images)
    assert figures["valid/cosine_of_codes"] == pytest.approx(float(cosines.mean()), rel=1e-5)


def test_prior_reads_tokens_or_what_clip_makes_of_them() -> None:
    """Where embeddings come from disk, tokens are there for priors that read them."""
    batch = whole(embedded(global_batch()))
    other = batch.text_tokens.clone()
    other[1, 1] = (other[1, 1] + 1) % 300
    changed = replace(batch, text_tokens=other)
    for overrides, is_read in (([], False), (["model.text_vocab_size=302"], True)):
        task = prior_task("loss.caption_dropout=0.0", *overrides)
        with torch.no_grad():
            losses = [float(task.loss(part, step=0)[0]) for part in (batch, changed)]
        assert (losses[0] != losses[1]) == is_read


def test_figures_of_embeddings_follow_their_definitions() -> None:
    pairs = PairEncoder(small_clip(), reads_tokens=False)(whole(global_batch()))
    images, texts = pairs.images, pairs.texts
    captions = global_batch().captions
    candidates = torch.stack([3 * images, 2 * texts], dim=1)  # [B, 2, D]: lengths say nothing
    figures = EmbeddingFigures()
    figures.add(pairs, candidates, captions=captions)
    found = figures.means()

    cosines = (images * texts).sum(dim=1)
    assert found["valid/cosine_to_text"] == pytest.approx(1.0)  # the caption's own is the closest
    assert found["valid/cosine_to_image"] == pytest.approx(float(cosines.mean()), rel=1e-5)
    assert found["valid/cosine_of_pairs"] == pytest.approx(float(cosines.mean()), rel=1e-5)
    variance = ((images - texts).square().sum(dim=1) / 2).mean()
    assert found["valid/variance_within_captions"] == pytest.approx(float(variance), rel=1e-5)
    alike = (images[2] - images[6]).square().sum() / 2
    assert found["valid/picture_variance_within_captions"] == pytest.approx(float(alike), rel=1e-5)


def test_pictures_of_different_captions_have_no_variance_within() -> None:
    pairs = PairEncoder(small_clip(), reads_tokens=False)(whole(global_batch()))
    figures = EmbeddingFigures()
    candidates = pairs.images[:, None].repeat(1, 2, 1)
    figures.add(pairs, candidates, captions=[str(i) for i in range(len(LENGTHS))])
    found = figures.means()
    assert found["valid/variance_within_captions"] == 0.0
    assert "valid/picture_variance_within_captions" not in found
