"""Requests before they are routed: what is refused, and bodies that stream."""

from __future__ import annotations

import gc
from typing import Any, cast

import pytest
import pytest_twisted
from attrs import define, field
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionLost
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.logger import capturedLogs
from twisted.python.failure import Failure
from twisted.web.resource import Resource

from cluster.web.body import RequestStream
from cluster.web.replies import Reply
from cluster.web.request import NodeRequest, NodeSite, StreamHandler, query_of


@define
class Node:
    """Handlers that note what they are given and answer nothing."""

    clock: Clock = field(factory=Clock)
    seen: list[bytes] = field(factory=list)

    def common_headers(self) -> dict[bytes, bytes]:
        return {}

    def stream_handler(self, request: NodeRequest) -> StreamHandler | None:
        if request.method != b"POST":
            return None

        async def handle(request: NodeRequest, stream: RequestStream) -> Any:
            self.seen.append(request.uri)

        return handle

    def serve_hot(self, request: NodeRequest) -> bool:
        self.seen.append(request.uri)
        return False


def answer_to(node: Node, request: bytes) -> bytes:
    """What a node sends for these bytes."""
    channel: Any = NodeSite(Resource(), cast(Any, node)).buildProtocol(None)
    transport = StringTransport()
    channel.makeConnection(transport)
    channel.dataReceived(request)
    return bytes(transport.value())


@pytest.mark.parametrize("method", [b"GET", b"PUT", b"POST"])
@pytest.mark.parametrize("target", [b"0/root/x", b"@evil.example/x", b".evil.example/x"])
def test_a_path_begins_with_a_slash(method: bytes, target: bytes) -> None:
    """No handler sees a path that would change the host of a URL it is put behind."""
    node = Node()
    head = method + b" " + target + b" HTTP/1.1\r\nHost: a.example\r\n"
    answer = answer_to(node, head + b"Content-Length: 2\r\n\r\n{}")
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert node.seen == []


@define
class Connection:
    """Notes whether it is paused."""

    paused: bool = False

    def pauseProducing(self) -> None:
        self.paused = True

    def resumeProducing(self) -> None:
        self.paused = False


@define
class SlowConsumer:
    """Pauses the stream with each write, like a sink whose disk is slow."""

    stream: RequestStream
    pauses: bool
    taken: bytes = b""

    def write(self, data: bytes) -> None:
        self.taken += data
        if self.pauses:
            self.stream.pauseProducing()


@pytest.mark.parametrize("pauses", [True, False])
@pytest_twisted.ensureDeferred
async def test_a_late_consumer_decides_about_the_pause(pauses: bool) -> None:
    """A consumer that pauses while it takes what was held is not overrun afterwards."""
    connection = Connection()
    stream = RequestStream(connection, None)
    for _ in range(3):
        stream.feed(bytes(1 << 19))
    assert connection.paused
    consumer = SlowConsumer(stream, pauses)
    delivering = Deferred.fromCoroutine(stream.deliver(consumer))
    assert connection.paused is pauses
    stream.end()
    await delivering
    assert len(consumer.taken) == 3 << 19


class Here(Resource):
    """What a node has itself."""

    isLeaf = True

    def render_GET(self, request: Any) -> bytes:
        return b"from here"


@define
class Waiting(Node):
    """A node that is behind until the test says otherwise, and then asks another one."""

    arrived: Deferred[bool] = field(factory=Deferred)
    answered: Deferred[Reply] = field(factory=Deferred)

    async def reached(self, minimum: str) -> bool:
        return await self.arrived

    async def answer_for(self, request: NodeRequest) -> Reply:
        self.seen.append(request.uri)
        return await self.answered


@pytest.mark.parametrize("there", [True, False])
@pytest.mark.parametrize("leaves", ["while it waits", "while another node is asked", "never"])
def test_who_asks_for_a_serial_may_go_away(there: bool, leaves: str) -> None:
    """A client that hangs up before a node has what it asked for costs nothing: no error, no
    question to another node; one that stays gets its answer."""
    node = Waiting()
    channel: Any = NodeSite(Here(), cast(Any, node)).buildProtocol(None)
    transport = StringTransport()
    channel.makeConnection(transport)
    with capturedLogs() as logs:
        channel.dataReceived(b"GET /x HTTP/1.1\r\nHost: a.example\r\nX-Pymirror-Min: 5\r\n\r\n")
        if leaves == "while it waits":
            channel.connectionLost(Failure(ConnectionLost()))
        node.arrived.callback(there)
        asked = not there and leaves != "while it waits"
        assert node.seen == ([b"/x"] if leaves != "while it waits" else [])
        if leaves == "while another node is asked":
            channel.connectionLost(Failure(ConnectionLost()))
        if asked:
            node.answered.callback(Reply(200, b"from elsewhere"))
        gc.collect()
    assert [event for event in logs if event.get("log_failure")] == []
    answer = transport.value().partition(b"\r\n\r\n")[2]
    stayed = {True: b"from here", False: b"from elsewhere"}[there]
    has_answer = leaves == "never" or (there and leaves != "while it waits")
    assert answer == (stayed if has_answer else b"")


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        (b"", {}),
        (b"?force", {b"force": [b""]}),
        (b"?a=1&b&a=2", {b"a": [b"1", b"2"], b"b": [b""]}),
        (b"?a=%ff+b&\xff=1", {b"a": [b"\xff b"], b"\xff": [b"1"]}),
    ],
)
def test_queries(query: bytes, expected: dict[bytes, list[bytes]]) -> None:
    """A name without a value counts, as devpi-client sends some; no bytes are too odd."""
    assert query_of(b"/root/x" + query) == expected
