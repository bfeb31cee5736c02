"""Who may ask the server: its user's own page, and over a network whoever has the token.

Any site that a user visits can make the browser send requests to this machine. Two checks hold them
off. `Host` must be a name of the loopback interface, which it is not where a stranger's domain is
made to lead here (DNS rebinding). `Origin`, which browsers send with every post, must be that of
the page. Where the server can be reached over a network, every path begins with a token that nobody
guesses instead of the first check: it has many names then. Knows nothing of what is asked for.
"""

import hmac
import ipaddress
import re
import secrets
from dataclasses import dataclass
from email.message import Message
from http import HTTPStatus

from dalle_cli.serving.answers import Refusal

LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "[::1]"})
TOKEN_BYTES = 16
PRINTED_ADDRESS = "open the address that `dalle serve` has printed"
HOST = re.compile(r"(\[[0-9a-f:.]+\]|[^\s\[\]:/@]+)(:\d{1,5})?")  # a name or an address, a port


@dataclass(frozen=True)
class Access:
    """The rules of a server.

    names  that `Host` may have; empty: any
    token  that every path begins with; "": none is needed
    """

    names: frozenset[str] = LOOPBACK_NAMES
    token: str = ""

    @classmethod
    def to_address(cls, address: str) -> "Access":
        """Return the rules for a server that listens at an IP address, with a new token."""
        if not ipaddress.ip_address(address).is_loopback:
            return cls(frozenset(), secrets.token_urlsafe(TOKEN_BYTES))
        return cls(LOOPBACK_NAMES | {host_text(address)})

    @property
    def root(self) -> str:
        """The path of the page."""
        return f"/{self.token}/" if self.token else "/"

    def check(self, method: str, target: str, headers: Message) -> str:
        """Return the path of a request below the root.

        Raises Refusal for requests that other sites may have sent, and for those without the token.
        """
        host = self._check_host(headers.get_all("Host", []))
        origins = headers.get_all("Origin", [])
        own = {f"http://{host}", f"https://{host}"}  # https: behind a proxy
        if method != "GET" and not {origin.lower() for origin in origins} <= own:
            raise Refusal(HTTPStatus.FORBIDDEN, "this request comes from another site")

        path = target.partition("?")[0]
        if self.token:
            first, _, path = path.removeprefix("/").partition("/")
            if not hmac.compare_digest(first.encode(), self.token.encode()):
                message = "the token is missing or wrong"
                raise Refusal(HTTPStatus.FORBIDDEN, message, PRINTED_ADDRESS)
        return path.removeprefix("/")

    def _check_host(self, hosts: list[str]) -> str:
        found = HOST.fullmatch(hosts[0].lower()) if len(hosts) == 1 else None
        if found is None:
            raise Refusal(HTTPStatus.BAD_REQUEST, "one `Host` header is needed")
        if self.names and found[1] not in self.names:
            status, message = HTTPStatus.MISDIRECTED_REQUEST, "the server has another name"
            raise Refusal(status, message, PRINTED_ADDRESS)
        return found[0]


def host_text(address: str) -> str:
    """Return an IP address as `Host` and URLs have it: that of version 6 in brackets."""
    return f"[{address}]" if ":" in address else address
