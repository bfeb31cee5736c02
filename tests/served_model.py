"""A page served for tests: a model that generates squares of one colour at once, and a client."""

import http.client
import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any

from PIL import Image

from dalle_cli.generation.text_to_image import GeneratedImage, RankBy
from dalle_cli.serving.access import Access
from dalle_cli.serving.http_server import open_server
from dalle_cli.serving.jobs import JobQueue, QueueFull
from dalle_cli.serving.model import PreparedPictures, ServedModel
from dalle_cli.serving.picture_request import PictureRequest, read_request
from dalle_cli.serving.site import Site
from dalle_cli.serving.worker import generate_jobs
from dalle_cli.storage.model_about import SamplingAdvice

SIDE, GRID = 32, 4
PATIENCE = 30.0  # seconds after which something hangs
PAUSE = 0.005


def colour_of(caption: str, seed: int, number: int) -> tuple[int, int, int]:
    """Return the colour of a picture, by what a picture depends on."""
    return sum(caption.encode()) % 256, seed % 256, number % 256


@dataclass
class PaintedPictures:
    """Squares of one colour; the last comes first where they are ranked."""

    request: PictureRequest
    warnings: Sequence[str]
    on_progress: Callable[[float], None]
    gate: threading.Event
    n_ungated: int

    def images(self) -> Iterator[GeneratedImage]:
        wanted = self.request
        for i, number in enumerate(range(wanted.first, wanted.first + wanted.n)):
            self.on_progress(i / wanted.n)
            while i >= self.n_ungated and not self.gate.wait(PAUSE):
                self.on_progress(i / wanted.n)
            colour = colour_of(wanted.caption, wanted.seed, number)
            yield GeneratedImage(
                image=Image.new("RGB", (SIDE, SIDE), colour),
                caption=wanted.caption,
                seed=wanted.seed,
                number=number,
                score=number / 8 if wanted.rank else None,
                rank=None,
            )

    def kept(self, images: Sequence[GeneratedImage]) -> list[GeneratedImage]:
        if not self.request.rank:
            return list(images)
        best = list(reversed(images))[: self.request.best or None]
        return [replace(image, rank=rank) for rank, image in enumerate(best, start=1)]


class PaintedModel:
    """A stand-in for a model; while its gate is closed, only a few pictures come.

    before  is called with each request, and may raise
    """

    name = "toy <model>"
    examples = ("a red circle", "a <blue> ring & more")
    rankings: tuple[RankBy, ...] = ("clip", "perplexity")
    image_size = SIDE
    grid_size = GRID
    advice = SamplingAdvice(temperature=0.5)

    def __init__(self, before: Callable[[PictureRequest], None] = lambda request: None) -> None:
        self.before = before
        self.gate = threading.Event()
        self.gate.set()
        self.n_ungated = 0
        self.warnings: Sequence[str] = ()
        self.begun_from: list[Image.Image | None] = []

    def prepare(
        self,
        request: PictureRequest,
        image: Image.Image | None,
        on_progress: Callable[[float], None],
    ) -> PreparedPictures:
        self.before(request)
        self.begun_from.append(image)
        return PaintedPictures(request, self.warnings, on_progress, self.gate, self.n_ungated)


STAND_IN: ServedModel = PaintedModel()


@dataclass(frozen=True)
class Reply:
    """What a server has answered."""

    status: int
    headers: dict[str, str]
    content: bytes

    @property
    def facts(self) -> dict[str, Any]:
        return json.loads(self.content)


@dataclass(frozen=True)
class Served:
    """A server, and requests to it."""

    port: int
    queue: JobQueue
    root: str = "/"

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}{self.root}"

    def ask(
        self,
        path: str = "",
        method: str = "GET",
        *,
        body: bytes | None = None,
        root: str | None = None,
        **headers: str,
    ) -> Reply:
        """Send a request for a path below the root; `_` in names of headers stands for `-`."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        target = (self.root if root is None else root) + path
        try:
            connection.request(method, target, body=body, headers=named)
            response = connection.getresponse()
            return Reply(response.status, dict(response.getheaders()), response.read())
        finally:
            connection.close()

    def post(self, path: str, facts: object, **headers: str) -> Reply:
        """Send JSON."""
        kind = {"Content_Type": "application/json"} | headers
        return self.ask(path, "POST", body=json.dumps(facts).encode(), **kind)

    def upload(self, content: bytes, **headers: str) -> Reply:
        """Send a picture to begin from."""
        kind = {"Content_Type": "application/octet-stream"} | headers
        return self.ask("uploads", "POST", body=content, **kind)

    def finished(self, number: int) -> dict[str, Any]:
        """Look at a job until it is over."""
        return self.watched(number, lambda facts: facts["is_over"])

    def watched(self, number: int, is_enough: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """Look at a job until that is enough."""
        end = time.monotonic() + PATIENCE
        while not is_enough(facts := self.ask(f"jobs/{number}").facts):
            assert time.monotonic() < end, facts
            time.sleep(PAUSE)
        return facts

    def generated(self, caption: str = "a red circle", **wanted: object) -> dict[str, Any]:
        """Submit a job, and return it once it is over."""
        reply = self.post("jobs", {"caption": caption, **wanted})
        assert reply.status == 202, reply.content
        return self.finished(reply.facts["id"])


@contextmanager
def serving(model: PaintedModel, access: Access | None = None) -> Iterator[Served]:
    """Serve a model's page at a free port; what is still generated at the end is stopped."""
    queue, rules = JobQueue(), access or Access()
    worker = threading.Thread(target=work, args=(queue, model), daemon=True)
    with open_server("127.0.0.1", 0) as server, server.answering(Site(model, queue, rules)):
        worker.start()
        try:
            yield Served(server.port, queue, rules.root)
        finally:
            end_worker(model, queue)
            worker.join(PATIENCE)


class WorkerEnds(BaseException):
    """What ends the thread that generates, as a request to stop does in a command."""


def work(queue: JobQueue, model: ServedModel) -> None:
    with suppress(WorkerEnds):
        generate_jobs(queue, model)


def end_worker(model: PaintedModel, queue: JobQueue) -> None:
    """Stop every job, and end the thread that generates by one more."""

    def leave(request: PictureRequest) -> None:
        raise WorkerEnds

    for job in queue.all_jobs():
        job.stop()
    model.gate.set()
    model.before = leave
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        try:
            last = {"caption": "last"}
            queue.submit(read_request(last, rankings=(), grid_size=GRID, advice=SamplingAdvice()))
            return
        except QueueFull:
            time.sleep(PAUSE)
