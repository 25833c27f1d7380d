"""The parts of Twisted's HTTP client that we use, in types that a checker can follow."""

from __future__ import annotations

from typing import Any, Protocol, cast

from twisted.internet.defer import Deferred
from twisted.internet.protocol import Protocol as WireProtocol
from twisted.web.client import Agent, HTTPConnectionPool, RedirectAgent
from twisted.web.http_headers import Headers

_CONNECT_SECONDS = 10.0
_REDIRECTS = 5
_PERSISTENT_PER_HOST = 8


class Response(Protocol):
    """`twisted.web.iweb.IResponse`; `length` is a number of bytes or UNKNOWN_LENGTH."""

    code: int
    headers: Headers
    length: object

    def deliverBody(self, protocol: WireProtocol, /) -> None:
        """Connect the body to `protocol`."""


class Requester(Protocol):
    """`twisted.web.iweb.IAgent`."""

    def request(
        self, method: bytes, uri: bytes, headers: Headers | None = None, body: Any = None, /
    ) -> Deferred[Response]:
        """Send a request; fires when the response's headers are here."""


def make_agent(reactor: Any) -> Requester:
    """Asks other servers: persistent connections, TLS verified, few redirects followed."""
    return cast(Requester, RedirectAgent(cast(Any, make_direct_agent(reactor)), _REDIRECTS))


def make_direct_agent(reactor: Any) -> Requester:
    """Asks a node: persistent connections, but no redirect is followed with our credentials."""
    pool = HTTPConnectionPool(reactor)
    pool._factory.noisy = False  # a log line for each connection
    pool.maxPersistentPerHost = _PERSISTENT_PER_HOST
    return cast(Requester, Agent(reactor, connectTimeout=_CONNECT_SECONDS, pool=pool))
