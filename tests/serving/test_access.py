"""Who may ask: which hosts, origins and tokens are let through."""

from email.message import Message

import pytest

from dalle_cli.serving.access import Access, host_text
from dalle_cli.serving.answers import Refusal

HERE = Access.to_address("127.0.0.1")
OUTSIDE = Access.to_address("0.0.0.0")


def headers(**values: str | list[str]) -> Message:
    message = Message()
    for name, value in values.items():
        for one in [value] if isinstance(value, str) else value:
            message[name] = one
    return message


def status_of(access: Access, method: str, target: str, **values: str | list[str]) -> int:
    """Return the status of the refusal, 200 if there is none."""
    try:
        access.check(method, target, headers(**values))
    except Refusal as refusal:
        return refusal.answer.status
    return 200


@pytest.mark.parametrize(
    "host", ["localhost", "localhost:8000", "LocalHost:1", "127.0.0.1:8000", "[::1]", "[::1]:8000"]
)
def test_names_of_this_machine_are_let_through(host: str) -> None:
    assert HERE.check("GET", "/jobs?x=1", headers(Host=host)) == "jobs"


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("evil.example", 421),
        ("evil.example:8000", 421),
        ("localhost.evil.example", 421),
        ("127.0.0.1.evil.example", 421),
        ("0.0.0.0:8000", 421),
        ("[::2]:8000", 421),
        ("", 400),
        ("localhost:port", 400),
        ("localhost:8000/", 400),
        ("evil.example@localhost", 400),
        ("localhost evil.example", 400),
        (["localhost", "localhost"], 400),
        ([], 400),
    ],
    ids=str,
)
def test_other_hosts_are_refused(host: str | list[str], status: int) -> None:
    """A stranger's domain that leads to this machine is the address of a page of the stranger's."""
    assert status_of(HERE, "GET", "/", Host=host) == status
    assert status_of(HERE, "POST", "/jobs", Host=host) == status


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        ([], 200),  # no browser
        ("http://localhost:8000", 200),
        ("https://localhost:8000", 200),
        ("http://localhost", 403),
        ("http://localhost:8001", 403),
        ("http://127.0.0.1:8000", 403),
        ("http://evil.example", 403),
        ("null", 403),
        ("", 403),
        (["http://localhost:8000", "http://evil.example"], 403),
    ],
    ids=str,
)
def test_posts_of_other_sites_are_refused(origin: str | list[str], status: int) -> None:
    host = "localhost:8000"
    assert status_of(HERE, "POST", "/jobs", Host=host, Origin=origin) == status
    assert status_of(HERE, "GET", "/jobs", Host=host, Origin=origin) == 200


def test_over_a_network_every_path_begins_with_the_token_whatever_the_host() -> None:
    assert len(OUTSIDE.token) >= 22 and OUTSIDE.root == f"/{OUTSIDE.token}/"
    assert Access.to_address("0.0.0.0").token != OUTSIDE.token
    assert OUTSIDE.check("GET", f"{OUTSIDE.root}jobs/3", headers(Host="machine:80")) == "jobs/3"
    assert OUTSIDE.check("GET", OUTSIDE.root, headers(Host="10.0.0.7")) == ""


@pytest.mark.parametrize(
    "target", ["/", "/jobs", "//jobs", "/x/jobs", "/{}x/jobs", "/é/jobs", "/?{}", "/jobs/{}", "{}/"]
)
def test_without_the_token_nothing_is_answered(target: str) -> None:
    target = target.format(OUTSIDE.token)
    expected = 200 if target == f"{OUTSIDE.token}/" else 403
    assert status_of(OUTSIDE, "GET", target, Host="machine") == expected
    assert status_of(OUTSIDE, "POST", "/jobs", Host="machine") == 403
    assert status_of(OUTSIDE, "POST", OUTSIDE.root, Host="machine", Origin="http://evil") == 403


@pytest.mark.parametrize("address", ["127.0.0.1", "127.0.0.9", "::1"])
def test_loopback_addresses_need_no_token(address: str) -> None:
    access = Access.to_address(address)
    assert access.root == "/" and host_text(address) in access.names


@pytest.mark.parametrize("address", ["0.0.0.0", "::", "192.168.0.2", "2001:db8::1"])
def test_other_addresses_need_one(address: str) -> None:
    assert Access.to_address(address).token
