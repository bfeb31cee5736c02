"""`dalle serve` from its first line to Ctrl-C, with a trained model."""

import http.client
import json
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from processes import LIMIT, command

from dalle_cli.serving.http_server import open_server


@contextmanager
def serve(*words: object) -> Iterator[tuple[subprocess.Popen, str]]:
    """Start a server at a free port inside a `with`; yield it with its first line."""
    with subprocess.Popen(
        command("serve", *words, "--port", 0, "--precision", "fp32"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None and process.stderr is not None
            line = process.stdout.readline().strip()
            assert line, process.stderr.read()
            yield process, line
        finally:
            process.kill()


def ask(url: str, path: str = "", facts: object = None) -> tuple[int, bytes]:
    """Send a request to this machine, whatever name the address has."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection("127.0.0.1", parts.port, timeout=LIMIT)
    body = None if facts is None else json.dumps(facts)
    headers = {} if facts is None else {"Content-Type": "application/json"}
    try:
        connection.request("GET" if facts is None else "POST", parts.path + path, body, headers)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def finished(url: str, number: int) -> dict[str, Any]:
    end = time.monotonic() + LIMIT
    while time.monotonic() < end:
        facts = json.loads(ask(url, f"jobs/{number}")[1])
        if facts["is_over"]:
            return facts
        time.sleep(0.05)
    raise AssertionError("it is never over")


def ended(process: subprocess.Popen, number: signal.Signals) -> str:
    """Send a signal; check the exit code and return what was printed on stderr."""
    process.send_signal(number)
    _, printed = process.communicate(timeout=LIMIT)
    assert process.returncode == 128 + number, printed
    return printed


@pytest.mark.thorough
def test_pictures_are_generated_until_ctrl_c(
    transformer_run: Path, dalle: Callable, tmp_path: Path
) -> None:
    words = ["-n", 2, "--seed", 5, "--precision", "fp32", "--out", tmp_path / "out"]
    assert dalle("generate", transformer_run, "a red circle", *words).code == 0

    with serve(transformer_run) as (process, url):
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+/", url)
        status, page = ask(url)
        assert status == 200 and f"<h1>{transformer_run.name}</h1>" in page.decode()

        wanted = {"caption": "a red circle", "n": 2, "seed": 5}
        status, content = ask(url, "jobs", wanted)
        assert status == 202, content
        job = finished(url, json.loads(content)["id"])
        assert job["state"] == "done" and len(job["pictures"]) == 2
        assert ask(url, job["pictures"][1]["file"])[1][:4] == b"\x89PNG"
        assert ask(url, "jobs", {"caption": ""})[0] == 400

        printed = ended(process, signal.SIGINT)
        assert printed.splitlines()[-1] == "stopped by SIGINT" and "Traceback" not in printed


@pytest.mark.thorough
def test_request_to_stop_ends_what_is_generated(transformer_run: Path) -> None:
    with serve(transformer_run, "--json", "--quiet") as (process, line):
        url = json.loads(line)["url"]
        assert ask(url, "jobs", {"caption": "a ring", "n": 64, "guidance": 2})[0] == 202
        assert ended(process, signal.SIGTERM).splitlines() == ["stopped by SIGTERM"]


@pytest.mark.thorough
def test_export_brings_its_clip_and_its_examples_and_a_network_wants_a_token(
    shipped_models_folder: Path,
) -> None:
    with serve(shipped_models_folder / "toy", "--host", "0.0.0.0") as (process, url):
        token = urlsplit(url).path.strip("/")
        assert len(token) >= 22 and urlsplit(url).hostname
        status, page = ask(url)
        assert status == 200 and "<h1>toy</h1>" in page.decode()
        assert ">CLIP</option>" in page.decode() and "Try: " in page.decode()
        status, content = ask(url.replace(token, "token"))
        assert status == 403 and token.encode() not in content

        wanted = {"caption": "a blue ring", "n": 3, "best": 1, "rank": "clip"}
        assert ask(url, "jobs", wanted)[0] == 202
        assert [one["rank"] for one in finished(url, 1)["pictures"]] == [1]
        assert "warning: whoever has this address" in ended(process, signal.SIGINT)


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["--port", "{port}"], 1, "cannot listen at 127.0.0.1, port {port}: "),
        (["--port", "70000"], 2, "'--port': Input should be less than or equal to 65535"),
        (["--host", "x" * 300], 2, "no such host: x"),
        (["--port", "0", "--clip", "nothing"], 2, "nothing"),
    ],
    ids=["taken", "no port", "no host", "no CLIP"],
)
def test_what_cannot_be_served_is_told(
    words: list[str], code: int, message: str, transformer_run: Path, dalle: Callable
) -> None:
    with open_server("127.0.0.1", 0) as server:
        words, message = [
            [word.format(port=server.port) for word in words],
            message.format(port=server.port),
        ]
        outcome = dalle("serve", transformer_run, *words)
    assert (outcome.code, outcome.out) == (code, "") and message in outcome.err, outcome.err
    assert "Traceback" not in outcome.err


def test_run_that_is_not_there_is_told(tmp_path: Path, dvae_run: Path, dalle: Callable) -> None:
    for run in (tmp_path / "nothing", dvae_run):
        outcome = dalle("serve", run, "--port", 0)
        assert (outcome.code, outcome.out) == (2, "") and "error: " in outcome.err
