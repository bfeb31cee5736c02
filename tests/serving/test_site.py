"""Everything that a browser does, without one: generate, stop, generate again, bad input."""

import io
import socket
import threading
import tracemalloc
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image
from served_model import GRID, SIDE, PaintedModel, Served, colour_of, serving

from dalle_cli.errors import DalleError, UsageError
from dalle_cli.serving.access import Access
from dalle_cli.serving.uploads import MAX_BYTES

N_AT_ONCE = 20
N_IN_TURN = 100
N_KEPT = 10


def png(side: int = 40, colour: str = "red") -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (side, side + 10), colour).save(file, "PNG")
    return file.getvalue()


def colour_in(content: bytes) -> tuple[int, ...]:
    """Return the only colour of a picture."""
    with Image.open(io.BytesIO(content)) as picture:
        assert picture.format == "PNG" and picture.size == (SIDE, SIDE)
        return tuple(np.unique(np.asarray(picture).reshape(-1, 3), axis=0).squeeze().tolist())


def test_pictures_come_with_seed_and_number(served: Served) -> None:
    job = served.generated("a blue ring", n=3, seed=5, first=8)
    assert (job["state"], job["progress"], job["problem"]) == ("done", 1.0, "")
    assert (job["seed"], [one["number"] for one in job["pictures"]]) == (5, [8, 9, 10])
    for one in job["pictures"]:
        reply = served.ask(one["file"])
        assert (reply.status, reply.headers["Content-Type"]) == (200, "image/png")
        assert colour_in(reply.content) == colour_of("a blue ring", 5, one["number"])


def test_picture_is_generated_again_by_seed_and_number(served: Served) -> None:
    job = served.generated("a blue ring", n=4)
    third = job["pictures"][2]
    again = served.generated("a blue ring", n=1, seed=job["seed"], first=third["number"])
    contents = [served.ask(one["file"]).content for one in (third, again["pictures"][0])]
    assert contents[0] == contents[1]


def test_pictures_are_there_as_they_come(served: Served, model: PaintedModel) -> None:
    model.gate.clear()
    model.n_ungated = 2
    number = served.post("jobs", {"caption": "a ring", "n": 4}).facts["id"]
    job = served.watched(number, lambda facts: facts["progress"] == 0.5)
    assert (job["state"], len(job["pictures"]), job["is_over"]) == ("running", 2, False)
    assert served.ask(job["pictures"][1]["file"]).status == 200
    model.gate.set()
    assert len(served.finished(number)["pictures"]) == 4


def test_best_are_kept_in_order(served: Served) -> None:
    job = served.generated(n=6, best=2, rank="clip")
    assert [(one["number"], one["rank"], one["score"]) for one in job["pictures"]] == [
        (5, 1, 5 / 8),
        (4, 2, 4 / 8),
    ]
    assert served.ask(f"pictures/{job['id']}-0.png").status == 404


def test_job_is_stopped_with_what_has_come(served: Served, model: PaintedModel) -> None:
    model.gate.clear()
    model.n_ungated = 1
    number = served.post("jobs", {"caption": "a ring", "n": 4}).facts["id"]
    served.watched(number, lambda facts: len(facts["pictures"]) == 1)
    assert served.post(f"jobs/{number}/stop", {}).status == 200
    job = served.finished(number)
    assert (job["state"], len(job["pictures"])) == ("stopped", 1)

    assert served.post(f"jobs/{number}/stop", {}).facts["state"] == "stopped"
    model.gate.set()
    assert served.generated()["state"] == "done"


def test_second_job_is_refused_politely(served: Served, model: PaintedModel) -> None:
    model.gate.clear()
    number = served.post("jobs", {"caption": "a ring"}).facts["id"]
    reply = served.post("jobs", {"caption": "a cross"})
    assert (reply.status, reply.headers["Retry-After"]) == (503, "5")
    assert reply.facts["error"] == "other pictures are being generated" and reply.facts["hint"]
    model.gate.set()
    assert served.finished(number)["state"] == "done"
    assert served.generated("a cross")["state"] == "done"


def test_history_lists_jobs_in_order(served: Served) -> None:
    captions = ["a ring", "a <cross>", "“Blüte”"]
    for caption in captions:
        served.generated(caption, n=1)
    jobs = served.ask("jobs").facts["jobs"]
    assert [job["caption"] for job in jobs] == captions
    assert jobs[1] == served.ask(f"jobs/{jobs[1]['id']}").facts


def test_picture_to_begin_from_is_cut_and_shown(served: Served, model: PaintedModel) -> None:
    reply = served.upload(png())
    assert reply.status == 201
    key = reply.facts["id"]
    assert colour_in(served.ask(f"uploads/{key}.png").content) == (255, 0, 0)

    job = served.generated(image=key, keep_rows=2)
    assert (job["image"], job["keep_rows"]) == (key, 2)
    begun_from = model.begun_from[-1]
    assert begun_from is not None and begun_from.size == (SIDE, SIDE)
    assert served.generated(image=key)["keep_rows"] == 1
    assert served.generated()["keep_rows"] is None and model.begun_from[-1] is None


def test_what_a_model_warns_of_is_told(served: Served, model: PaintedModel) -> None:
    model.warnings = ['never seen in training: "octopus"']
    assert served.generated("an octopus")["warnings"] == model.warnings


@pytest.mark.parametrize(
    ("error", "problem"),
    [
        (DalleError("out of memory: 9 GiB", "ask for less"), "out of memory: 9 GiB (ask for less)"),
        (UsageError("that can't be right"), "that can't be right"),
        (
            RuntimeError("a mistake"),
            "something unexpected has happened: see where `dalle serve` runs",
        ),
    ],
    ids=lambda value: type(value).__name__,
)
def test_failure_ends_one_job_and_no_other(
    error: Exception, problem: str, capsys: pytest.CaptureFixture
) -> None:
    def fail_once(_: object, errors: list[Exception] = [error]) -> None:  # noqa: B006
        if errors:
            raise errors.pop()

    with serving(PaintedModel(fail_once)) as served:
        job = served.generated()
        assert (job["state"], job["problem"], job["pictures"]) == ("failed", problem, [])
        assert served.generated()["state"] == "done"
    assert ("Traceback" in capsys.readouterr().err) == isinstance(error, RuntimeError)


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({"caption": ""}, "there is no caption"),
        ({"caption": "x", "n": 65}, "`n` must be 1 to 64"),
        ({"caption": "x", "n": "4"}, "`n` must be a whole number"),
        ({"caption": "x", "image": "00ff"}, "not kept any more"),
        ([1], "a request is a JSON object"),
    ],
    ids=str,
)
def test_bad_requests_are_told_and_begin_nothing(
    served: Served, facts: object, message: str
) -> None:
    reply = served.post("jobs", facts)
    assert reply.status == 400 and message in reply.facts["error"]
    assert served.ask("jobs").facts == {"jobs": []}


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[" * 9000, b"\xff\xfe", b'{"caption": NaN', b"9" * 5000]
)
def test_what_is_not_json_is_told(served: Served, body: bytes) -> None:
    reply = served.ask("jobs", "POST", body=body, Content_Type="application/json")
    assert reply.status == 400 and reply.facts["error"] == "the request is not JSON"


@pytest.mark.parametrize(
    ("content", "status"),
    [(b"", 400), (b"<html>", 400), (png()[:50], 400), (bytes(MAX_BYTES + 1), 413)],
    ids=["empty", "page", "cut", "large"],
)
def test_bad_uploads_are_told(served: Served, content: bytes, status: int) -> None:
    reply = served.upload(content)
    assert reply.status == status and reply.facts["error"]


def test_large_request_is_refused_without_being_read(served: Served) -> None:
    reply = served.ask(
        "jobs", "POST", body=b" " * 20_000, Content_Type="application/json; charset=utf-8"
    )
    assert reply.status == 413 and "0.0156 MiB" in reply.facts["error"]


@pytest.mark.parametrize("kind", ["", "text/plain", "application/x-www-form-urlencoded"])
def test_forms_of_other_sites_cannot_post(served: Served, kind: str) -> None:
    """These kinds are the ones that a browser sends without asking first."""
    for path in ("jobs", "jobs/1/stop", "uploads"):
        served.generated(n=1)
        reply = served.ask(path, "POST", body=b'{"caption": "x"}', Content_Type=kind)
        assert reply.status == 415


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "nothing", 404),
        ("GET", "../etc/passwd", 404),
        ("GET", "%2e%2e/etc/passwd", 404),
        ("GET", "jobs/", 404),
        ("GET", "jobs/1", 404),
        ("GET", "jobs/-1", 404),
        ("GET", f"jobs/{'9' * 400}", 404),
        ("GET", "pictures/1-0.png", 404),
        ("GET", "uploads/00.png", 404),
        ("POST", "", 405),
        ("GET", "uploads", 405),
        ("GET", "jobs/1/stop", 405),
        ("DELETE", "jobs", 501),
        ("OPTIONS", "jobs", 501),
    ],
)
def test_other_addresses_and_methods_are_refused(
    served: Served, method: str, path: str, status: int
) -> None:
    reply = served.ask(path, method)
    assert reply.status == status and reply.facts["error"]


def test_requests_of_other_sites_are_refused(served: Served) -> None:
    facts = {"caption": "x"}
    assert served.ask(Host="evil.example").status == 421
    assert served.post("jobs", facts, Origin="http://evil.example").status == 403
    assert served.upload(png(), Origin="null").status == 403
    assert served.ask("jobs").facts == {"jobs": []}
    own = f"http://127.0.0.1:{served.port}"
    assert served.post("jobs", facts, Origin=own).status == 202


def test_every_answer_forbids_what_is_not_needed(served: Served) -> None:
    job = served.generated(n=1)
    for path in ("", "jobs", job["pictures"][0]["file"], "nothing"):
        headers = served.ask(path).headers
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Referrer-Policy"] == "no-referrer"
        assert headers["Cache-Control"] == "no-store"
        assert headers["Cross-Origin-Resource-Policy"] == "same-origin"
        policy = headers["Content-Security-Policy"]
        assert "frame-ancestors 'none'" in policy and "unsafe" not in policy
        assert ("default-src 'none'" in policy) == (path != "")
        assert not [name for name in headers if name.startswith("Access-Control")]


def test_page_is_that_of_the_model(served: Served) -> None:
    reply = served.ask()
    page = reply.content.decode()
    assert (reply.status, reply.headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    assert "<h1>toy &lt;model&gt;</h1>" in page and f"Rows to keep, of {GRID}" in page


def test_with_a_token_nothing_is_answered_without_it() -> None:
    access = Access.to_address("0.0.0.0")
    with serving(PaintedModel(), access) as served:
        assert served.generated(n=1)["state"] == "done"
        assert served.ask().status == 200 and served.ask(Host="any.name").status == 200
        for root in ("/", "/wrong/"):
            for path in ("", "jobs", "jobs/1", "pictures/1-0.png", "nothing"):
                reply = served.ask(path, root=root)
                assert reply.status == 403 and access.token not in reply.content.decode()
            assert served.ask("jobs", "POST", body=b"{}", root=root).status == 403


def test_many_at_once_are_answered_or_refused_politely(served: Served, model: PaintedModel) -> None:
    model.gate.clear()
    together = threading.Barrier(N_AT_ONCE)

    def submit(i: int) -> int:
        together.wait()
        reply = served.post("jobs", {"caption": f"ring {i}"})
        assert reply.facts.get("error", "") in ("", "other pictures are being generated")
        return reply.status

    with ThreadPoolExecutor(N_AT_ONCE) as pool:
        statuses = Counter(pool.map(submit, range(N_AT_ONCE)))
    assert statuses == {202: 1, 503: N_AT_ONCE - 1}
    model.gate.set()
    assert served.finished(1)["state"] == "done"


def test_client_that_goes_away_blocks_nobody(
    served: Served, model: PaintedModel, capsys: pytest.CaptureFixture
) -> None:
    body = b'{"caption": "a ring", "n": 2}'
    head = f"POST /jobs HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n"
    head += "Content-Type: application/json\r\n\r\n"
    for sent in (head.encode(), head.encode() + body[:9], head.encode() + body, b"GET / HT", b""):
        with socket.create_connection(("127.0.0.1", served.port)) as connection:
            connection.sendall(sent)

    served.watched(1, lambda facts: facts.get("is_over", False))
    assert served.generated()["state"] == "done"
    assert capsys.readouterr().err == ""


def test_memory_stays_flat(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is kept is bounded: once the history is full, nothing is added to it."""
    monkeypatch.setattr("dalle_cli.serving.jobs.MAX_JOBS", N_KEPT)
    for i in range(N_KEPT):
        served.generated(f"ring {i}", n=1)
    n_threads = threading.active_count()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for i in range(N_IN_TURN):
            assert served.generated(f"cross {i}", n=1)["state"] == "done"
        grown = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()

    assert len(served.ask("jobs").facts["jobs"]) == N_KEPT
    assert grown < 10**6 and threading.active_count() < n_threads + 10
