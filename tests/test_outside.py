"""The URL that links begin with: a front's header, the option, or the Host."""

from __future__ import annotations

from typing import Any

import pytest
from attrs import define, field
from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress

from cluster.web.outside import outside_url


@define
class FakeRequest:
    """What is read of a request."""

    headers: dict[str, str] = field(factory=dict)
    own: Any = field(factory=lambda: IPv4Address("TCP", "192.0.2.1", 3141))
    secure: bool = False

    def header(self, name: str) -> str | None:
        return self.headers.get(name)

    def getHost(self) -> Any:
        return self.own

    def isSecure(self) -> bool:
        return self.secure


def url(configured: str | None = None, /, secure: bool = False, own: Any = None, **h: str) -> str:
    headers = {name.replace("_", "-"): value for name, value in h.items()}
    request: Any = FakeRequest(headers, secure=secure)
    if own is not None:
        request.own = own
    return outside_url(request, configured)


def test_order() -> None:
    """A front knows best, then the operator, then the client."""
    front, option = "https://front.example/pypi/", "http://option.example:80/"
    assert url(option, X_Outside_Url=front, Host="h.example") == "https://front.example/pypi"
    assert url(option, Host="h.example") == "http://option.example:80"
    assert url(Host="h.example:3141") == "http://h.example:3141"
    assert url(Host="[2001:db8::1]:3141", secure=True) == "https://[2001:db8::1]:3141"


@pytest.mark.parametrize(
    ("own", "expected"),
    [
        (IPv4Address("TCP", "192.0.2.1", 3141), "http://192.0.2.1:3141"),
        (IPv6Address("TCP", "2001:db8::1", 3141), "http://[2001:db8::1]:3141"),
        (UNIXAddress(b"/run/pymirror"), "http://localhost"),
    ],
)
def test_without_a_host(own: Any, expected: str) -> None:
    """HTTP/1.0 has none: where the request came in is all that is known."""
    assert url(own=own) == expected


@pytest.mark.parametrize(
    "bad",
    ["", "ftp://x.example", "javascript:alert(1)", "http://", "http://a b", "http://u:p@x.example",
     "http://x.example/?q", "http://x.example/#f", "http://[x", 'http://x.example"><script>',
     "http://x.example:999999999"],
)  # fmt: skip
def test_what_is_no_url_is_passed_over(bad: str) -> None:
    """Anybody can send the header, and it is copied into links."""
    assert url(X_Outside_Url=bad, Host="h.example") == "http://h.example"


@pytest.mark.parametrize("bad", ["a/b", "a b", "a@b", 'a"b', "[::1", "a:b"])
def test_a_bad_host_is_passed_over(bad: str) -> None:
    """It could move the host of every link."""
    assert url(Host=bad) == "http://192.0.2.1:3141"
