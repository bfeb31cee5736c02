"""Sockets: slow, large, broken and too many requests, each with an end and mostly an answer."""

import http.client
import json
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from served_model import PATIENCE, PaintedModel, Served, serving

from dalle_cli.errors import DalleError, UsageError
from dalle_cli.serving import http_server
from dalle_cli.serving.http_server import MAX_HEAD, open_server

HEAD = b"GET /jobs HTTP/1.1\r\nHost: localhost\r\n"
POST = b"POST /jobs HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"


def exchange(served: Served, *parts: bytes) -> tuple[int, dict]:
    """Send bytes and read to the end; return status and JSON, (0, {}) where there is no answer."""
    with socket.create_connection(("127.0.0.1", served.port), timeout=PATIENCE) as connection:
        for part in parts:
            connection.sendall(part)
        response = http.client.HTTPResponse(connection)
        try:
            response.begin()
        except http.client.BadStatusLine:
            return 0, {}
        return response.status, json.loads(response.read())


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> Iterator[Served]:
    """A server that waits a moment only."""
    monkeypatch.setattr(http_server, "HEAD_SECONDS", 1.0)
    monkeypatch.setattr(http_server, "SLOWEST_RATE", 10**9)
    with serving(PaintedModel()) as served:
        yield served


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (HEAD + b"\r\n", 200),
        (b"nonsense\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n", 400),  # TLS
        (b"GET /jobs HTTP/9.9\r\n\r\n", 505),
        (b"GET /jobs\r\n\r\n", 400),
        (b"GET /jobs HTTP/1.0\r\n\r\n", 400),  # without Host
        (b"PRI * HTTP/2.0\r\n\r\n", 505),
        (b"GET /" + b"x" * MAX_HEAD + b" HTTP/1.1\r\n", 431),
        (HEAD + b"X: " + b"x" * MAX_HEAD + b"\r\n\r\n", 431),
        (HEAD + b"X: x\r\n" * 200 + b"\r\n", 431),
        (POST + b"\r\n", 411),
        (POST + b"Content-Length: -1\r\n\r\n", 411),
        (POST + b"Content-Length: 1e3\r\n\r\n", 411),
        (POST + b"Content-Length: \xb2\r\n\r\n", 411),
        (POST + b"Content-Length: " + b"9" * 5000 + b"\r\n\r\n", 411),
        (POST + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n{}", 411),
        (POST + b"Content-Length: 9999999\r\n\r\n", 413),
        (POST + b"Content-Length: 2\r\n\r\n{}", 400),  # no caption
    ],
    ids=lambda value: str(value)[:60],
)
def test_requests_are_answered_within_bounds(
    served: Served, request_bytes: bytes, status: int
) -> None:
    answered, facts = exchange(served, request_bytes)
    assert answered == status and facts


def test_connection_ends_with_its_first_answer(served: Served) -> None:
    with socket.create_connection(("127.0.0.1", served.port), timeout=PATIENCE) as connection:
        connection.sendall(HEAD + b"Connection: keep-alive\r\n\r\n" + HEAD + b"\r\n")
        content = b""
        while part := connection.recv(4096):
            content += part
    assert content.count(b"HTTP/1.0 200") == 1 and b"\r\nConnection: close\r\n" in content


def test_head_that_never_ends_is_given_up(hasty: Served) -> None:
    assert exchange(hasty, HEAD) == (0, {})


def test_body_that_never_ends_is_given_up(hasty: Served) -> None:
    status, facts = exchange(hasty, POST + b"Content-Length: 100\r\n\r\n{")
    assert (status, facts["error"]) == (408, "the request came too slowly")


def test_bytes_that_drip_gain_no_time(hasty: Served) -> None:
    """The deadline is that of the whole request, not of each byte."""
    with socket.create_connection(("127.0.0.1", hasty.port), timeout=0.05) as connection:
        for _ in range(100):
            try:
                connection.sendall(b"x")
                assert connection.recv(1) == b""
            except TimeoutError:
                continue
            except ConnectionError:
                pass
            break
        else:
            pytest.fail("the connection is still open")


def test_body_that_ends_early_is_told(served: Served) -> None:
    with socket.create_connection(("127.0.0.1", served.port), timeout=PATIENCE) as connection:
        connection.sendall(POST + b"Content-Length: 100\r\n\r\n{")
        connection.shutdown(socket.SHUT_WR)
        response = http.client.HTTPResponse(connection)
        response.begin()
        assert (response.status, json.loads(response.read())["error"]) == (
            400,
            "the content ends early",
        )


def test_too_many_connections_are_refused_and_the_next_ones_answered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(http_server, "MAX_CONNECTIONS", 3)
    with serving(PaintedModel()) as served:
        with ExitStack() as idle:
            for _ in range(3):
                idle.enter_context(socket.create_connection(("127.0.0.1", served.port)))
            status, facts = exchange(served)
            assert (status, facts["error"]) == (503, "too many requests at once")
        served.watched(1, lambda facts: facts.get("error") == "this is not kept any more")


def test_server_ends_while_clients_wait(served: Served) -> None:
    """Its threads are left behind, and don't hold up the end of the process."""
    before = {thread for thread in threading.enumerate() if not thread.daemon}
    with socket.create_connection(("127.0.0.1", served.port)):
        served.ask()
        assert {thread for thread in threading.enumerate() if not thread.daemon} == before


def test_taken_port_is_told() -> None:
    with (
        open_server("127.0.0.1", 0) as server,
        pytest.raises(DalleError, match=f"cannot listen at 127.0.0.1, port {server.port}") as told,
    ):
        open_server("127.0.0.1", server.port)
    assert told.value.exit_code == 1 and "--port 0" in told.value.hint


@pytest.mark.parametrize("host", ["nowhere.invalid", "x" * 300, "\udcff"])
def test_host_that_is_none_is_told(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if host == "nowhere.invalid":  # which a resolver may take long to find nowhere

        def fail(*_: object, **__: object) -> None:
            raise socket.gaierror(socket.EAI_NONAME, "not known")

        monkeypatch.setattr(socket, "getaddrinfo", fail)
    with pytest.raises(UsageError, match="no such host"):
        open_server(host, 0)


def test_foreign_address_is_told() -> None:
    with pytest.raises(DalleError, match=r"cannot listen at 192\.0\.2\.1, port 0"):
        open_server("192.0.2.1", 0)  # of the block for documentation


def test_names_and_addresses_of_both_versions_may_be_listened_at() -> None:
    hosts = ["127.0.0.1", "localhost", *(["::1"] if has_ipv6() else [])]
    for host in hosts:
        with open_server(host, 0) as server:
            assert server.port > 0 and server.address in ("127.0.0.1", "::1")


def has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True
