"""What the server answers: bytes of a kind, JSON, or a refusal that says what helps.

Every answer has headers that keep browsers from storing it, guessing its kind, showing it inside
another site's page, or telling other sites its address.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

# the page brings a stricter policy for what it loads, in which its style and script are named
PAGE_POLICY = "frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
OTHER_POLICY = f"default-src 'none'; {PAGE_POLICY}"
HEADERS = {
    "Cache-Control": "no-store",
    "Connection": "close",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
HTML, JSON, PNG = "text/html; charset=utf-8", "application/json", "image/png"


@dataclass(frozen=True)
class Answer:
    """A status, some content, and headers beside those that all answers have."""

    content: bytes
    kind: str
    status: HTTPStatus = HTTPStatus.OK
    headers: Mapping[str, str] = field(default_factory=dict)

    def response(self) -> bytes:
        """Return the answer as it is sent, after which the connection ends."""
        headers = {
            "Content-Type": self.kind,
            "Content-Length": str(len(self.content)),
            "Content-Security-Policy": PAGE_POLICY if self.kind == HTML else OTHER_POLICY,
            **HEADERS,
            **self.headers,
        }
        lines = [f"HTTP/1.0 {self.status.value} {self.status.phrase}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        return "\r\n".join([*lines, "", ""]).encode("ascii") + self.content


def json_answer(facts: Mapping[str, Any], status: HTTPStatus = HTTPStatus.OK) -> Answer:
    """Return facts as JSON."""
    return Answer(json.dumps(facts).encode(), JSON, status)


class Refusal(Exception):
    """A request that is refused: why, and what helps."""

    def __init__(
        self,
        status: HTTPStatus,
        message: str,
        hint: str = "",
        *,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.answer = Answer(
            json.dumps({"error": message, "hint": hint}).encode(), JSON, status, headers or {}
        )
