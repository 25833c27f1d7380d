"""The parts of Twisted's HTTP client that we use, in types that a checker can follow."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any, Protocol, cast

from attrs import frozen
from twisted.internet.defer import Deferred, succeed
from twisted.internet.endpoints import HostnameEndpoint, wrapClientTLS
from twisted.internet.interfaces import IProtocolFactory, IStreamClientEndpoint, ITCPTransport
from twisted.internet.protocol import Protocol as WireProtocol
from twisted.python.failure import Failure
from twisted.web._newclient import HEADER, STATUS
from twisted.web.client import (
    URI,
    Agent,
    BrowserLikePolicyForHTTPS,
    HTTPConnectionPool,
    RedirectAgent,
)
from twisted.web.error import SchemeNotSupported
from twisted.web.http_headers import Headers
from twisted.web.iweb import IAgentEndpointFactory, IBodyProducer
from zope.interface import implementer  # type: ignore[attr-defined]

from cluster.errors import PymirrorError

_CONNECT_SECONDS = 10.0
_CONNECT_NODE_SECONDS = 5.0
SILENT_SECONDS = 10
"""A node whose machine does not even acknowledge for so long is taken for gone."""
_PROBE_FROM_SECONDS = 4
_PROBE_EVERY_SECONDS = 2
_REDIRECTS = 5
MAX_HEAD_BYTES = 256 << 10
"""Bytes of an answer's headers, all together."""
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


@implementer(IBodyProducer)
@frozen
class WholeBody:
    """A request's body that is in memory: written at once."""

    data: bytes

    @property
    def length(self) -> int:
        """Bytes of it."""
        return len(self.data)

    def startProducing(self, consumer: Any) -> Deferred[None]:
        """Write it."""
        consumer.write(self.data)
        return succeed(None)

    def stopProducing(self) -> None:
        """It is written already."""

    def pauseProducing(self) -> None:
        """The same."""

    def resumeProducing(self) -> None:
        """The same."""


def make_agent(reactor: Any) -> Requester:
    """Asks other servers: persistent connections, TLS verified, few redirects followed, to
    wherever they lead by http or https, but with credentials to the same origin alone.
    """
    return cast(Requester, RedirectAgent(cast(Any, make_direct_agent(reactor)), _REDIRECTS))


def make_direct_agent(reactor: Any) -> Requester:
    """Asks a server: persistent connections, but no redirect is followed with our credentials."""
    return _agent(reactor, Endpoints(reactor, BrowserLikePolicyForHTTPS(), _CONNECT_SECONDS))


def make_node_agent(reactor: Any) -> Requester:
    """As `make_direct_agent`, for long polls: the end of a connection that nobody closed, as when
    a network is cut, is noticed within SILENT_SECONDS while nothing is said on it.
    """
    policy = BrowserLikePolicyForHTTPS()
    return _agent(reactor, Endpoints(reactor, policy, _CONNECT_NODE_SECONDS, is_watched=True))


def _agent(reactor: Any, endpoints: Endpoints) -> Requester:
    pool = HTTPConnectionPool(reactor)
    pool._factory.noisy = False  # a log line for each connection
    pool.maxPersistentPerHost = _PERSISTENT_PER_HOST
    return cast(Requester, Agent.usingEndpointFactory(reactor, cast(Any, endpoints), pool))


@implementer(IAgentEndpointFactory)
@frozen
class Endpoints:
    """How servers are reached by http and https; raises SchemeNotSupported for anything else."""

    _reactor: Any
    _policy: Any
    _seconds: float
    is_watched: bool = False

    def endpointForURI(self, uri: URI) -> Any:
        """The endpoint of a URL's server."""
        if uri.scheme not in (b"http", b"https"):
            raise SchemeNotSupported(f"{uri.scheme!r} is not http")
        host = uri.host.decode("ascii")
        endpoint: Any = HostnameEndpoint(self._reactor, host, uri.port, timeout=self._seconds)
        if self.is_watched:
            endpoint = _Then(endpoint, _watched)
        if uri.scheme == b"https":
            endpoint = wrapClientTLS(self._policy.creatorForNetloc(uri.host, uri.port), endpoint)
        return _Then(endpoint, _bounded)


@implementer(IStreamClientEndpoint)
@frozen
class _Then:
    """An endpoint that does something with each connection's protocol."""

    _endpoint: Any
    _then: Callable[[Any], Any]

    def connect(self, factory: IProtocolFactory) -> Deferred[Any]:
        connected: Deferred[Any] = self._endpoint.connect(factory)
        return connected.addCallback(self._then)


def _bounded(protocol: Any) -> Any:
    """Twisted bounds each line of an answer's headers, but not their number."""
    receive, seen = protocol.dataReceived, 0

    def received(data: bytes) -> None:
        nonlocal seen
        receive(data)
        parser = getattr(protocol, "_parser", None)
        is_head = parser is not None and parser.state in (STATUS, HEADER)
        seen = seen + len(data) if is_head else 0
        if seen > MAX_HEAD_BYTES:
            protocol._giveUp(Failure(PymirrorError("the answer's headers are too large")))

    protocol.dataReceived = received
    return protocol


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
