"""Connections to nodes are watched: one that a cut network left behind is noticed."""

from __future__ import annotations

import socket
import sys
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import HostnameEndpoint, TCP4ServerEndpoint
from twisted.internet.protocol import Factory, Protocol
from twisted.web.client import URI, BrowserLikePolicyForHTTPS
from twisted.web.error import SchemeNotSupported

from cluster.agent import SILENT_SECONDS, Endpoints, _Then, _watched


@pytest.mark.skipif(sys.platform != "linux", reason="the options are Linux's")
@pytest_twisted.ensureDeferred
async def test_watched_connection() -> None:
    """A connection is probed while it is idle, and given up when nothing is acknowledged."""
    port = await TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1").listen(
        Factory.forProtocol(Protocol)
    )
    reached = HostnameEndpoint(reactor, "127.0.0.1", port.getHost().port)
    endpoint: Any = _Then(reached, _watched)
    protocol: Any = await endpoint.connect(Factory.forProtocol(Protocol))
    handle = protocol.transport.getHandle()
    assert handle.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
    said = handle.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT)
    assert said == SILENT_SECONDS * 1_000
    assert handle.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) < SILENT_SECONDS
    closed: Deferred[None] = Deferred()
    protocol.connectionLost = lambda reason: closed.callback(None)
    protocol.transport.loseConnection()
    await closed
    await port.stopListening()


def test_schemes() -> None:
    """Nodes are asked by http and https, and nothing else."""
    endpoints: Any = Endpoints(reactor, BrowserLikePolicyForHTTPS(), 1.0, is_watched=True)
    for url in (b"http://node.example/", b"https://node.example/"):
        assert endpoints.endpointForURI(URI.fromBytes(url)) is not None
    for url in (b"ftp://node.example/", b"file:///etc/passwd"):
        with pytest.raises(SchemeNotSupported):
            endpoints.endpointForURI(URI.fromBytes(url))
