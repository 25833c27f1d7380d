"""The parts of Twisted's HTTP client that we use, in types that a checker can follow."""

from __future__ import annotations

import socket
from typing import Any, Protocol, cast

from attrs import frozen
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import HostnameEndpoint, wrapClientTLS
from twisted.internet.interfaces import IProtocolFactory, IStreamClientEndpoint, ITCPTransport
from twisted.internet.protocol import Protocol as WireProtocol
from twisted.web.client import (
    URI,
    Agent,
    BrowserLikePolicyForHTTPS,
    HTTPConnectionPool,
    RedirectAgent,
)
from twisted.web.error import SchemeNotSupported
from twisted.web.http_headers import Headers
from twisted.web.iweb import IAgentEndpointFactory
from zope.interface import implementer  # type: ignore[attr-defined]

_CONNECT_SECONDS = 10.0
_CONNECT_NODE_SECONDS = 5.0
SILENT_SECONDS = 10
"""A node whose machine does not even acknowledge for so long is taken for gone."""
_PROBE_FROM_SECONDS = 4
_PROBE_EVERY_SECONDS = 2
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
    """Asks a server: persistent connections, but no redirect is followed with our credentials."""
    return cast(Requester, Agent(reactor, connectTimeout=_CONNECT_SECONDS, pool=_pool(reactor)))


def make_node_agent(reactor: Any) -> Requester:
    """As `make_direct_agent`, for long polls: the end of a connection that nobody closed, as when
    a network is cut, is noticed within SILENT_SECONDS while nothing is said on it.
    """
    factory = _Watched(reactor, BrowserLikePolicyForHTTPS())
    return cast(Requester, Agent.usingEndpointFactory(reactor, factory, _pool(reactor)))


def _pool(reactor: Any) -> HTTPConnectionPool:
    pool = HTTPConnectionPool(reactor)
    pool._factory.noisy = False  # a log line for each connection
    pool.maxPersistentPerHost = _PERSISTENT_PER_HOST
    return pool


@implementer(IAgentEndpointFactory)
@frozen
class _Watched:
    _reactor: Any
    _policy: Any

    def endpointForURI(self, uri: URI) -> Any:
        host = uri.host.decode("ascii")
        endpoint: Any = _WatchedEndpoint(
            HostnameEndpoint(self._reactor, host, uri.port, timeout=_CONNECT_NODE_SECONDS)
        )
        if uri.scheme == b"http":
            return endpoint
        if uri.scheme == b"https":
            return wrapClientTLS(self._policy.creatorForNetloc(uri.host, uri.port), endpoint)
        raise SchemeNotSupported(f"{uri.scheme!r} is not http")


@implementer(IStreamClientEndpoint)
@frozen
class _WatchedEndpoint:
    _endpoint: Any

    def connect(self, factory: IProtocolFactory) -> Deferred[Any]:
        connected: Deferred[Any] = self._endpoint.connect(factory)
        return connected.addCallback(_watched)


def _watched(protocol: Any) -> Any:
    transport = protocol.transport
    if ITCPTransport.providedBy(transport):
        transport.setTcpKeepAlive(1)
        # Without acknowledgement of what was sent, and without answer to the probes.
        for option, value in (
            ("TCP_USER_TIMEOUT", SILENT_SECONDS * 1_000),
            ("TCP_KEEPIDLE", _PROBE_FROM_SECONDS),
            ("TCP_KEEPINTVL", _PROBE_EVERY_SECONDS),
        ):
            if hasattr(socket, option):  # Linux has them all
                number = getattr(socket, option)
                transport.getHandle().setsockopt(socket.IPPROTO_TCP, number, value)
    return protocol
