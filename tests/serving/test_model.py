"""A loaded model behind the page: its pictures are those of `dalle generate`."""

import io
import json
import resource
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from served_model import PaintedModel

import dalle_cli
from dalle_cli.serving.jobs import UNWATCHED_SECONDS, Job
from dalle_cli.serving.model import LoadedModel, ServedModel
from dalle_cli.serving.picture_request import PictureRequest, read_request
from dalle_cli.serving.worker import generate_job


@pytest.fixture(scope="module")
def model(transformer_run: Path, clip_run: Path) -> ServedModel:
    loaded = dalle_cli.load_pipeline(transformer_run, clip=clip_run, precision="fp32")
    return LoadedModel("toy", ["a red circle"], loaded)


def request(model: ServedModel, **wanted: object) -> PictureRequest:
    facts = {"caption": "a red circle", "seed": 5, "n": 3, **wanted}
    return read_request(
        facts, rankings=model.rankings, grid_size=model.grid_size, advice=model.advice
    )


def pixels(job: Job, number: int) -> np.ndarray:
    picture = job.find_picture(number)
    assert picture is not None
    return np.asarray(Image.open(io.BytesIO(picture.content)))


def test_model_tells_its_sizes_and_rankings(model: ServedModel) -> None:
    assert (model.image_size, model.grid_size) == (32, 4)
    assert model.rankings == ("clip", "caption", "perplexity")
    stand_in: ServedModel = PaintedModel()
    assert (stand_in.image_size, stand_in.grid_size) == (model.image_size, model.grid_size)


@pytest.mark.parametrize("is_begun", [False, True], ids=["alone", "from a picture"])
def test_pictures_are_those_of_the_command(
    is_begun: bool,
    model: ServedModel,
    transformer_run: Path,
    clip_run: Path,
    pairs: Path,
    dalle: Callable,
    tmp_path: Path,
) -> None:
    file = pairs / "005.png"
    words = ["-n", 3, "--first", 2, "--seed", 5, "--temperature", 0.5, "--guidance", 2]
    words += ["--clip", clip_run, "--best", 2, "--precision", "fp32", "--out", tmp_path / "out"]
    words += ["--image", file, "--keep-rows", 2] if is_begun else []
    ended = dalle("generate", transformer_run, "a red circle", *words)
    assert ended.code == 0, ended.err

    wanted = {"first": 2, "temperature": 0.5, "guidance": 2, "rank": "clip", "best": 2}
    if is_begun:
        wanted |= {"image": "0a", "keep_rows": 2}
    image = Image.open(file).convert("RGB") if is_begun else None
    job = Job(1, request(model, **wanted), image)
    generate_job(job, model)

    facts = job.facts()
    assert (facts["state"], facts["problem"], job.image) == ("done", "", None)
    lines = (tmp_path / "out" / "manifest.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    assert [one["number"] for one in facts["pictures"]] == [one["number"] for one in records]
    for shown, record in zip(facts["pictures"], records, strict=True):
        assert shown["rank"] == record["rank"]
        assert shown["score"] == pytest.approx(record["score"], abs=1e-5)
        written = np.asarray(Image.open(tmp_path / "out" / record["file"]))
        np.testing.assert_array_equal(pixels(job, shown["number"]), written)


def test_warnings_are_those_of_the_command(model: ServedModel) -> None:
    job = Job(1, request(model, caption="an octopus", n=1))
    generate_job(job, model)
    assert any("octopus" in text for text in job.facts()["warnings"])


def test_job_ends_in_the_middle_of_a_batch(model: ServedModel) -> None:
    ticks = iter(range(10**6))
    job = Job(1, request(model, n=64), clock=lambda: float(next(ticks)))
    generate_job(job, model)
    facts = job.facts()
    assert facts["state"] == "stopped" and 0 < len(facts["pictures"]) < 64
    n_steps = facts["progress"] * 64 / 4 * model.grid_size**2
    assert n_steps == pytest.approx(UNWATCHED_SECONDS, abs=3)


@pytest.mark.slow
def test_memory_stays_flat_over_a_hundred_jobs(model: ServedModel) -> None:
    def resident_bytes() -> int:
        n_pages = int(Path("/proc/self/statm").read_text().split()[1])
        return n_pages * resource.getpagesize()

    for i in range(20):
        generate_job(Job(i, request(model, seed=i)), model)
    before = resident_bytes()
    for i in range(100):
        generate_job(Job(i, request(model, seed=i, n=1 + i % 6)), model)
    assert resident_bytes() - before < 20 * 10**6


def test_job_that_is_stopped_before_it_begins_generates_nothing() -> None:
    model = PaintedModel()
    job = Job(1, request(model))
    job.stop()
    generate_job(job, model)
    assert job.facts()["state"] == "stopped" and not model.begun_from


def test_scores_that_are_no_numbers_are_left_out() -> None:
    """JSON has none, and a perplexity may be infinite."""

    class Overflown(PaintedModel):
        def prepare(self, *given):
            prepared = super().prepare(*given)
            images = prepared.images

            def infinite():
                for image in images():
                    yield type(image)(image.image, "a", 0, image.number, float("inf"), None)

            prepared.images = infinite
            return prepared

    model = Overflown()
    job = Job(1, request(model, n=1, rank="perplexity"))
    generate_job(job, model)
    (picture,) = job.facts()["pictures"]
    assert (picture["score"], picture["rank"]) == (None, 1)
