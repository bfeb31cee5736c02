"""The job that is generated, and those that are over: a queue of one, and a bounded history.

One thread generates; others begin, look at and stop jobs. A job that nobody has looked at for a
while ends at its next step: its browser has gone. Knows nothing of models or of HTTP.
"""

import itertools
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from queue import SimpleQueue
from typing import Any, Literal

from PIL import Image

from dalle_cli.errors import DalleError
from dalle_cli.serving.picture_request import PictureRequest

MAX_JOBS = 100  # that are kept
MAX_KEPT_BYTES = 64 * 2**20  # of their pictures
# browsers let the scripts of hidden pages run once a minute
UNWATCHED_SECONDS = 90.0

State = Literal["waiting", "running", "done", "stopped", "failed"]
Clock = Callable[[], float]


class QueueFull(DalleError):
    """A job that is refused because another one is not over."""

    def __init__(self) -> None:
        super().__init__(
            "other pictures are being generated", "try again when they are there, or stop them"
        )


class JobStopped(Exception):
    """A job ends early; it is raised in the thread that generates."""


@dataclass(frozen=True)
class JobPicture:
    """A picture of a job, as a PNG."""

    number: int
    score: float | None
    rank: int | None
    content: bytes


class Job:
    """Pictures that a browser has asked for, as they come.

    image  the picture to begin from, until the job is over
    """

    def __init__(
        self,
        number: int,
        request: PictureRequest,
        image: Image.Image | None = None,
        *,
        clock: Clock = time.monotonic,
    ) -> None:
        self.number = number
        self.request = request
        self.image = image
        self._clock = clock
        self._lock = threading.Lock()
        self._state: State = "waiting"
        self._pictures: list[JobPicture] = []
        self._progress = 0.0
        self._warnings: tuple[str, ...] = ()
        self._problem = ""
        self._is_stopping = False
        self._looked_at = clock()

    @property
    def is_over(self) -> bool:
        """Whether nothing more comes."""
        return self._state not in ("waiting", "running")

    @property
    def n_bytes(self) -> int:
        """The size of its pictures."""
        with self._lock:
            return sum(len(picture.content) for picture in self._pictures)

    def begin(self, warnings: Sequence[str]) -> None:
        """Note that generation begins, and what is to be known before."""
        with self._lock:
            self._state, self._warnings = "running", tuple(warnings)

    def advance(self, progress: float) -> None:
        """Note the share that is done; raise JobStopped if the job is to end."""
        with self._lock:
            self._progress = progress
            is_unwatched = self._clock() - self._looked_at > UNWATCHED_SECONDS
            if self._is_stopping or is_unwatched:
                raise JobStopped

    def add(self, picture: JobPicture) -> None:
        """Show a picture after the others."""
        with self._lock:
            self._pictures.append(picture)

    def finish(self, ranks: dict[int, int | None]) -> None:
        """End with all pictures there; keep those of these numbers, in this order.

        ranks  of the pictures to keep, by number; None where nothing ranks
        """
        with self._lock:
            by_number = {picture.number: picture for picture in self._pictures}
            self._pictures = [
                JobPicture(number, by_number[number].score, rank, by_number[number].content)
                for number, rank in ranks.items()
            ]
            self._progress = 1.0
            self._end("done")

    def end(self, state: Literal["stopped", "failed"], problem: str = "") -> None:
        """End with the pictures that are there, and with what was wrong."""
        with self._lock:
            self._problem = problem
            self._end(state)

    def _end(self, state: State) -> None:
        self._state, self.image = state, None

    def stop(self) -> None:
        """Ask the thread that generates to end the job."""
        self._is_stopping = True

    def look(self) -> dict[str, Any]:
        """Return what there is to know, for somebody who waits for it."""
        self._looked_at = self._clock()
        return self.facts()

    def facts(self) -> dict[str, Any]:
        """Return what there is to know."""
        with self._lock:
            return {
                **asdict(self.request),
                "id": self.number,
                "state": self._state,
                "is_over": self.is_over,
                "progress": self._progress,
                "warnings": self._warnings,
                "problem": self._problem,
                "pictures": [
                    {
                        "number": picture.number,
                        "score": picture.score,
                        "rank": picture.rank,
                        "file": f"pictures/{self.number}-{picture.number}.png",
                    }
                    for picture in self._pictures
                ],
            }

    def find_picture(self, number: int) -> JobPicture | None:
        """Return the picture of a number, if it is there."""
        with self._lock:
            return next((one for one in self._pictures if one.number == number), None)


class JobQueue:
    """One job that is not over, at most, and the last ones that are."""

    def __init__(self, clock: Clock = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._jobs: dict[int, Job] = {}
        self._numbers = itertools.count(1)
        self._waiting: SimpleQueue[Job] = SimpleQueue()

    def submit(self, request: PictureRequest, image: Image.Image | None = None) -> Job:
        """Begin a job, and forget the oldest ones where too much is kept.

        Raises QueueFull while another one is not over.
        """
        with self._lock:
            if any(not job.is_over for job in self._jobs.values()):
                raise QueueFull
            self._forget()
            job = Job(next(self._numbers), request, image, clock=self._clock)
            self._jobs[job.number] = job
        self._waiting.put(job)
        return job

    def next_job(self) -> Job:
        """Wait for a job to generate."""
        return self._waiting.get()

    def find_job(self, number: int) -> Job | None:
        """Return the job of a number, if it is still kept."""
        with self._lock:
            return self._jobs.get(number)

    def all_jobs(self) -> list[Job]:
        """Return all jobs that are kept, the oldest first."""
        with self._lock:
            return list(self._jobs.values())

    def _forget(self) -> None:
        """Leave room for one more job."""
        n_bytes = sum(job.n_bytes for job in self._jobs.values())
        while len(self._jobs) >= MAX_JOBS or n_bytes > MAX_KEPT_BYTES:
            oldest = self._jobs.pop(next(iter(self._jobs)))
            n_bytes -= oldest.n_bytes
