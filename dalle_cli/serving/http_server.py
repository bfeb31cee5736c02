"""HTTP over sockets: one request a connection, in a thread, within bounds of time and size.

The standard library's server is enough, and less to see right than an event loop: the page asks a
few times a second, nothing is streamed, and HTTP/1.0 means that there is no idle connection, no
second request and no chunked body to care for. What it lacks is here: a deadline for the whole of a
request, however slowly its bytes come; a bound of its size and of the number of connections; and
answers that arrive although the request was not read to its end.
"""

import io
import socket
import socketserver
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from typing import Any

from dalle_cli.errors import DalleError, UsageError
from dalle_cli.serving.answers import Answer, Refusal
from dalle_cli.serving.site import Site

MAX_CONNECTIONS = 64
MAX_HEAD = 64 * 2**10  # bytes
HEAD_SECONDS = 15.0
SLOWEST_RATE = 2**16  # bytes a second, of a body
ANSWER_SECONDS = 30.0
LINGER_SECONDS = 2.0
POLL_SECONDS = 0.1  # between two looks at whether to end
OVERLOADED = Refusal(
    HTTPStatus.SERVICE_UNAVAILABLE, "too many requests at once", "try again in a moment"
)


class HeadTooLarge(Exception):
    """A request whose head has more bytes than any browser sends."""


class BoundedReader(io.RawIOBase):
    """What comes from a socket, until a deadline and up to a number of bytes."""

    def __init__(self, connection: socket.socket, n_bytes: int, seconds: float) -> None:
        self._connection = connection
        self._n_bytes = n_bytes
        self._deadline = time.monotonic() + seconds

    def allow(self, n_bytes: int) -> None:
        """Allow more bytes, and the time for them."""
        self._n_bytes += n_bytes
        self._deadline += n_bytes / SLOWEST_RATE

    def readable(self) -> bool:
        """Whether it can be read: always."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Receive some bytes; raises TimeoutError and HeadTooLarge beyond the bounds."""
        seconds = self._deadline - time.monotonic()
        if seconds <= 0:
            raise TimeoutError("the request came too slowly")
        if self._n_bytes <= 0:
            raise HeadTooLarge
        self._connection.settimeout(seconds)
        n_received = self._connection.recv_into(memoryview(buffer)[: self._n_bytes])
        self._n_bytes -= n_received
        return n_received


class PageServer(socketserver.ThreadingMixIn, socketserver.TCPServer):
    """Listens at an address; threads answer for a site once there is one."""

    daemon_threads = True
    block_on_close = False
    allow_reuse_address = True
    request_queue_size = 128
    site: Site

    def __init__(self, address: str, port: int) -> None:
        """Listen at an IP address; raises OSError where that is not possible."""
        self.address_family = socket.AF_INET6 if ":" in address else socket.AF_INET
        self._slots = threading.BoundedSemaphore(MAX_CONNECTIONS)
        super().__init__((address, port), _Connection)

    @property
    def address(self) -> str:
        """The IP address at which it listens."""
        return str(self.server_address[0])

    @property
    def port(self) -> int:
        """The port at which it listens."""
        return int(self.server_address[1])

    @contextmanager
    def answering(self, site: Site) -> Iterator[None]:
        """Answer for a site inside a `with`."""
        self.site = site
        thread = threading.Thread(target=self.serve_forever, args=(POLL_SECONDS,), daemon=True)
        thread.start()
        try:
            yield
        finally:
            self.shutdown()
            thread.join()

    def process_request(self, request: Any, client_address: Any) -> None:
        """Answer in a thread, or refuse if there are too many."""
        if not self._slots.acquire(blocking=False):
            with suppress(OSError):
                request.setblocking(False)
                request.send(OVERLOADED.answer.response())
            self.close_request(request)
            return
        try:
            super().process_request(request, client_address)
        except BaseException:
            self._slots.release()
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Answer, and make room for another connection."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._slots.release()

    def shutdown_request(self, request: Any) -> None:
        """Close a connection once its client has the answer.

        Closed with bytes unread, it would be reset, and the answer might be lost.
        """
        deadline = time.monotonic() + LINGER_SECONDS
        with suppress(OSError):
            request.shutdown(socket.SHUT_WR)
            while (seconds := deadline - time.monotonic()) > 0:
                request.settimeout(seconds)
                if not request.recv(2**16):
                    break
        self.close_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Print what is wrong with the server; a client that has gone is nothing wrong."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)


class _Connection(BaseHTTPRequestHandler):
    """Reads the request of a connection and writes its answer."""

    server: PageServer

    def setup(self) -> None:
        super().setup()
        self.rfile.close()
        self._reader = BoundedReader(self.connection, MAX_HEAD, HEAD_SECONDS)
        self.rfile = io.BufferedReader(self._reader)

    def handle(self) -> None:
        try:
            self.handle_one_request()
        except HeadTooLarge:
            self.send_error(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)

    def do_GET(self) -> None:
        self._respond()

    def do_POST(self) -> None:
        self._respond()

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Answer what could not be read as a request; the standard library calls it."""
        status = HTTPStatus(code)
        self._send(Refusal(status, message or status.phrase).answer)

    def log_message(self, format: str, *args: Any) -> None:
        """Print nothing: an address may hold the token."""

    def _respond(self) -> None:
        site = self.server.site
        self._send(site.answer(self.command, self.path, self.headers, self._read_body))

    def _read_body(self, n_bytes: int) -> bytes:
        """Read the body of a request; raises Refusal unless it is there, and within a size."""
        length = self.headers.get("Content-Length", "")
        is_number = length.isascii() and length.isdecimal() and len(length) < 20
        if not is_number or "Transfer-Encoding" in self.headers:
            raise Refusal(HTTPStatus.LENGTH_REQUIRED, "the length of the content is missing")
        if int(length) > n_bytes:
            message = f"the content is too large: over {n_bytes / 2**20:.3g} MiB"
            raise Refusal(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, message)

        self._reader.allow(int(length))
        try:
            content = self.rfile.read(int(length))
        except TimeoutError:
            message = "the request came too slowly"
            raise Refusal(HTTPStatus.REQUEST_TIMEOUT, message) from None
        if len(content) < int(length):
            raise Refusal(HTTPStatus.BAD_REQUEST, "the content ends early")
        return content

    def _send(self, answer: Answer) -> None:
        self.connection.settimeout(ANSWER_SECONDS)
        self.wfile.write(answer.response())


def open_server(host: str, port: int) -> PageServer:
    """Listen at a host's first address that allows it.

    Raises UsageError for a host that has none, and DalleError where the port is taken, or none of
    the addresses is this machine's.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (socket.gaierror, UnicodeError) as error:
        raise UsageError(f"no such host: {host}", "--host is a name or an IP address") from error

    reason: str | None = None
    for *_, address in found:
        try:
            return PageServer(str(address[0]), port)
        except OSError as error:
            reason = reason or error.strerror
    message = f"cannot listen at {host}, port {port}: {reason}"
    raise DalleError(message, "`--port 0` takes a free port")
