"""One job at a time, a history that stays small, and jobs whose browsers have gone."""

import pytest

from dalle_cli.serving.jobs import (
    MAX_JOBS,
    MAX_KEPT_BYTES,
    UNWATCHED_SECONDS,
    Job,
    JobPicture,
    JobQueue,
    JobStopped,
    QueueFull,
)
from dalle_cli.serving.picture_request import PictureRequest, read_request
from dalle_cli.storage.model_about import SamplingAdvice

REQUEST: PictureRequest = read_request(
    {"caption": "a ring", "seed": 3, "n": 3}, rankings=(), grid_size=4, advice=SamplingAdvice()
)


class Clock:
    """A clock that tests set."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def ended(queue: JobQueue, *sizes: int) -> Job:
    """Submit a job and end it with pictures of these sizes."""
    job = queue.submit(REQUEST)
    assert queue.next_job() is job
    for number, size in enumerate(sizes):
        job.add(JobPicture(number, None, None, bytes(size)))
    job.finish(dict.fromkeys(range(len(sizes))))
    return job


def test_second_job_is_refused_until_the_first_is_over() -> None:
    queue = JobQueue()
    job = queue.submit(REQUEST)
    for _ in range(2):
        with pytest.raises(QueueFull, match="being generated"):
            queue.submit(REQUEST)
        job.begin([])
    job.end("failed", "no luck")
    assert queue.submit(REQUEST).number == 2
    assert [one.number for one in queue.all_jobs()] == [1, 2]


def test_facts_tell_what_is_there() -> None:
    job = Job(7, REQUEST)
    assert (job.facts()["state"], job.facts()["is_over"]) == ("waiting", False)
    job.begin(["a warning"])
    job.advance(0.5)
    job.add(JobPicture(0, 0.25, None, b"first"))
    job.add(JobPicture(1, 0.75, None, b"second"))
    facts = job.facts()
    assert (facts["state"], facts["progress"]) == ("running", 0.5)
    assert facts["warnings"] == ("a warning",)
    assert (facts["caption"], facts["seed"], facts["n"], facts["id"]) == ("a ring", 3, 3, 7)
    assert facts["pictures"] == [
        {"number": 0, "score": 0.25, "rank": None, "file": "pictures/7-0.png"},
        {"number": 1, "score": 0.75, "rank": None, "file": "pictures/7-1.png"},
    ]

    job.finish({1: 1})
    facts = job.facts()
    assert (facts["state"], facts["progress"], facts["is_over"]) == ("done", 1.0, True)
    assert facts["pictures"] == [
        {"number": 1, "score": 0.75, "rank": 1, "file": "pictures/7-1.png"}
    ]
    assert job.find_picture(0) is None
    second = job.find_picture(1)
    assert second is not None and second.content == b"second"


def test_stopped_job_ends_at_its_next_step_and_keeps_its_pictures() -> None:
    job = Job(1, REQUEST)
    job.begin([])
    job.add(JobPicture(0, None, None, b"x"))
    job.stop()
    with pytest.raises(JobStopped):
        job.advance(0.5)
    job.end("stopped")
    assert job.is_over and len(job.facts()["pictures"]) == 1


def test_job_that_nobody_looks_at_ends() -> None:
    clock = Clock()
    job = Job(1, REQUEST, clock=clock)
    for _ in range(3):
        clock.now += UNWATCHED_SECONDS
        job.advance(0.1)
        job.look()
    job.facts()
    clock.now += UNWATCHED_SECONDS + 1
    job.facts()  # a list of all jobs is no look at this one
    with pytest.raises(JobStopped):
        job.advance(0.2)


def test_oldest_jobs_are_forgotten() -> None:
    queue = JobQueue()
    for _ in range(MAX_JOBS + 5):
        ended(queue, 10)
    numbers = [job.number for job in queue.all_jobs()]
    assert numbers == list(range(6, MAX_JOBS + 6))
    assert queue.find_job(5) is None and queue.find_job(6) is not None


def test_pictures_that_are_kept_have_a_bound() -> None:
    queue = JobQueue()
    third = MAX_KEPT_BYTES // 3
    for _ in range(5):
        ended(queue, third // 2, third // 2)
    queue.submit(REQUEST)
    assert [job.number for job in queue.all_jobs()] == [3, 4, 5, 6]
    assert sum(job.n_bytes for job in queue.all_jobs()) <= MAX_KEPT_BYTES
