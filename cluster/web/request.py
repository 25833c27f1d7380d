"""Our Request: bodies that stream, the hot path, and refusals before a body is read.

twisted.web reads a whole body before it routes, and its form parser holds it in memory
(security.md §4). Here the headers decide: a handler may take the body as a stream, anything
else gets at most MAX_BODY_BYTES in memory.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Coroutine
from io import BytesIO
from typing import Any, Protocol
from urllib.parse import parse_qs, unquote_to_bytes

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure
from twisted.web.http import datetimeToString
from twisted.web.resource import Resource
from twisted.web.server import Request, Site

from cluster.clock import Clock
from cluster.errors import InvalidRequest, TooLarge
from cluster.metrics import RequestCounts
from cluster.protocol import MIN_HEADER
from cluster.web.body import RequestStream
from cluster.web.headers import serial_headers
from cluster.web.replies import Reply, error_reply, send, text_reply

MAX_BODY_BYTES = 1 << 20
# What a refused client may still send before we hang up on it: enough for ordinary packages to
# be read to their end, so that the client reads our answer instead of a broken connection.
LINGER_BYTES = 2 << 20
LINGER_SECONDS = 2.0
_HIDDEN_SEPARATOR = re.compile(rb"%(?:2f|5c|[01][0-9a-f]|7f)", re.IGNORECASE)

StreamHandler = Callable[["NodeRequest", RequestStream], Coroutine[Any, Any, Reply]]


class NodeHandlers(Protocol):
    """What the composition of a node offers to each request."""

    clock: Clock

    def common_headers(self) -> dict[bytes, bytes]:
        """Headers of every answer (the node's serial)."""

    def stream_handler(self, request: NodeRequest) -> StreamHandler | None:
        """Who takes this request's body as a stream; None for an ordinary request."""

    def serve_hot(self, request: NodeRequest) -> bool:
        """Answer from memory if that is possible."""

    async def reached(self, minimum: str) -> bool:
        """Wait a little until this node has applied a serial; raises InvalidRequest."""

    async def answer_for(self, request: NodeRequest) -> Reply:
        """Answer a read in another node's place, or refuse: this one is too far behind."""


class NodeSite(Site):
    """A Site whose requests know the node they belong to; form bodies are never parsed."""

    displayTracebacks = False
    noisy = False

    def __init__(self, resource: Resource, node: NodeHandlers) -> None:
        super().__init__(resource, requestFactory=NodeRequest, parsePOSTFormSubmission=False)
        self.node = node
        self.counts = RequestCounts()
        self._active: set[NodeRequest] = set()
        self._idle: list[Deferred[None]] = []

    def begin(self, request: NodeRequest) -> None:
        """A request that takes time has come in."""
        self._active.add(request)

    def end(self, request: NodeRequest) -> None:
        """It is answered, or its client is gone."""
        self._active.discard(request)
        if not self._active:
            idle, self._idle = self._idle, []
            for waiter in idle:
                waiter.callback(None)

    async def idle(self) -> None:
        """Wait until no request is in flight: for an orderly shutdown."""
        if self._active:
            waiter: Deferred[None] = Deferred()
            self._idle.append(waiter)
            await waiter

    def log(self, request: object) -> None:
        """No access log: it costs more than a hot page does. Counters are in the status."""


class NodeRequest(Request):
    """One request to a node."""

    channel: Any
    content: BytesIO
    stream: RequestStream | None = None
    lost: bool = False
    is_upload: bool = False
    is_counted: bool = False
    as_of: int | None = None
    """The head before what the answer says was read: it may have moved on since."""

    @property
    def node(self) -> NodeHandlers:
        """The node that this request came to."""
        node: NodeHandlers = self.channel.site.node
        return node

    def header(self, name: str) -> str | None:
        """A header's first value, or None. Any bytes may come; what is not UTF-8 is replaced."""
        values = self.requestHeaders.getRawHeaders(name.encode("ascii"))
        return values[0].decode("utf-8", "replace") if values else None

    def gotLength(self, length: int | None) -> None:
        """The headers are here, the body is not: decide where it goes."""
        self.content = BytesIO()
        if length == 0:
            return
        channel = self.channel
        # Not public, but the only place where these are before the body has been read.
        self.method, self.uri, self.clientproto = channel._command, channel._path, channel._version
        self.path = self.uri.partition(b"?")[0]
        self.args = query_of(self.uri)
        handler = self.node.stream_handler(self)
        if handler is None and length is not None and length <= MAX_BODY_BYTES:
            return
        self.stream = RequestStream(channel._networkProducer, length)
        channel.site.begin(self)
        Deferred.fromCoroutine(self._serve_stream(handler or _refuse_body))
        if self.startedWriting:  # our channel's "100 Continue" would come after the answer
            self.requestHeaders.removeHeader(b"Expect")

    def handleContentChunk(self, data: bytes) -> None:
        """Bytes of the body."""
        if self.stream is not None:
            self.stream.feed(data)
        else:
            self.content.write(data)

    def requestReceived(self, command: bytes, path: bytes, version: bytes) -> None:
        """The request is whole."""
        if self.stream is None:
            super().requestReceived(command, path, version)
            return
        self.clientproto = version
        self.stream.end()

    def connectionLost(self, reason: Failure) -> None:
        """The client went away."""
        self.lost = True
        self.channel.site.end(self)
        if self.stream is not None:
            self.stream.lose()
        super().connectionLost(reason)

    def process(self) -> None:
        """Answer from memory, or route the request."""
        self.args = query_of(self.uri)
        trouble = self._trouble()
        if trouble is not None:
            self.answer(text_reply(trouble, 400))
            return
        is_read = self.method in (b"GET", b"HEAD")
        if is_read and self.requestHeaders.hasHeader(MIN_HEADER):
            self.channel.site.begin(self)
            Deferred.fromCoroutine(self._process_at(self.header(MIN_HEADER) or ""))
            return
        counts = self.channel.site.counts  # a finished request has no channel any more
        if is_read and self.node.serve_hot(self):
            counts.hot += 1
            return
        self.channel.site.begin(self)
        super().process()

    async def _process_at(self, minimum: str) -> None:
        """Answer from a state that includes a serial that the client has seen before."""
        node = self.node  # who goes away while this waits takes the channel along
        try:
            there = await node.reached(minimum)
            reply = None if there or self.lost else await node.answer_for(self)
        except Exception:
            reply = error_reply(Failure(), self.header("Accept") or "")
        if self.lost:
            return
        if reply is not None:
            self.set_common_headers()
            self.answer(reply)
        elif not node.serve_hot(self):
            super().process()

    def finish(self) -> None:
        """The answer is whole; nothing to do when nobody is there to read it."""
        if not self.lost:
            site = self.channel.site
            if not self.is_counted:
                site.counts.count(self.method, self.path, self.code, is_upload=self.is_upload)
            super().finish()
            # Last: the end of the last request may be the end of the node.
            site.end(self)

    def _trouble(self) -> str | None:
        # Two Hosts is a way to make a front and us disagree about a request (RFC 9112 §3.2).
        hosts = self.requestHeaders.getRawHeaders(b"Host") or ()
        if len(hosts) > 1 or (not hosts and self.clientproto == b"HTTP/1.1"):
            return "exactly one Host header is needed"
        # A replica puts the path behind its primary's URL: without the slash it would become a
        # part of the host or port, and our token would go to whoever listens there.
        if not self.path.startswith(b"/"):
            return "the path must begin with a slash"
        if b"%" not in self.path:
            return None if self.path.isascii() else "the path must be percent-encoded"
        # A separator that appears only after decoding would move the path's borders (S7).
        if _HIDDEN_SEPARATOR.search(self.path):
            return "a path segment holds an encoded separator or control character"
        try:
            unquote_to_bytes(self.path).decode()
        except UnicodeDecodeError:
            return "the path is not UTF-8"
        return None

    def set_common_headers(self) -> None:
        """Headers that every answer has, as they are now."""
        self.setHeader("Server", "pymirror")
        # Twisted sets it when it routes, which an upload never comes to; nodes compare clocks.
        self.setHeader("Date", datetimeToString())
        serial = {} if self.as_of is None else serial_headers(self.as_of)
        for name, value in {**self.node.common_headers(), **serial}.items():
            self.setHeader(name, value)

    def send_prepared(self, parts: list[bytes]) -> None:
        """Send a whole answer, status line and headers included, and finish; the caller counts."""
        self.is_counted = True
        self.startedWriting = 1
        self.channel.writeSequence(parts)
        self.finish()

    def answer(self, reply: Reply) -> None:
        """Send a whole answer and finish, unless the client is gone."""
        if not self.lost:
            send(self, reply)
            self.finish()

    async def _serve_stream(self, handler: StreamHandler) -> None:
        stream = self.stream
        assert stream is not None  # noqa: S101
        try:
            trouble = self._trouble()
            if trouble is not None:
                raise InvalidRequest(trouble)
            reply = await handler(self, stream)
        except Exception:
            reply = error_reply(Failure(), self.header("Accept") or "", in_reason=True)
        if self.lost:
            return
        self.set_common_headers()
        if not stream.ended:
            self.setHeader("Connection", "close")
            self.channel.persistent = False
        self.clientproto = b"HTTP/1.1"
        send(self, reply)
        if not stream.ended:
            give_up = self.node.clock.callLater(LINGER_SECONDS, stream.stop_discarding)
            await stream.discard(LINGER_BYTES)
            if give_up.active():
                give_up.cancel()
        if not self.lost:
            self.finish()


def query_of(uri: bytes) -> dict[bytes, list[bytes]]:
    """The query's values by name; a name alone, as in ``?force``, counts (Twisted drops it)."""
    query = uri.partition(b"?")[2].decode("latin-1")
    if not query:
        return {}
    found = parse_qs(query, keep_blank_values=True, encoding="latin-1")
    return {k.encode("latin-1"): [v.encode("latin-1") for v in found[k]] for k in found}


async def _refuse_body(request: NodeRequest, stream: RequestStream) -> Reply:
    if stream.length is None:
        raise InvalidRequest("send this request's body with a Content-Length")
    raise TooLarge(f"a body of {stream.length} bytes is too large here; most is {MAX_BODY_BYTES}")
