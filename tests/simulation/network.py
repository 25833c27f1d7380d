"""A network in memory: it delays, reorders, repeats, loses and spoils what nodes say.

All chance comes from one seeded generator, all time from one `task.Clock`: a seed is a run.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from enum import Enum
from functools import partial
from io import BytesIO
from typing import Any
from urllib.parse import urlsplit

from attrs import define, field, frozen
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionLost, ConnectionRefusedError
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.web.client import ResponseDone
from twisted.web.http_headers import Headers

from cluster.web.replies import Reply
from cluster.web.request import query_of


class Link(Enum):
    """What becomes of requests from one node to another, and of their answers."""

    UP = "up"
    SLOW = "slow"
    CUT = "cut"
    """Nothing arrives; nobody is told."""
    MUTE = "mute"
    """Requests arrive, answers do not."""
    REFUSED = "refused"


@frozen
class _Address:
    host: str


@define(eq=False)
class Request:
    """What a node's handlers look at of a request."""

    source: str
    method: bytes
    uri: bytes
    requestHeaders: Headers
    content: BytesIO
    pieces: Callable[[bytes, dict[str, str]], None] = lambda data, headers: None
    """Where a handler's answer goes that it writes by itself."""
    lost: bool = False
    _answer_headers: dict[str, str] = field(factory=dict)

    def setHeader(self, name: str, value: str) -> None:
        """A header of an answer that the handler writes by itself."""
        self._answer_headers[name] = value

    def write(self, data: bytes) -> None:
        """A piece of it."""
        self.pieces(data, self._answer_headers)

    def registerProducer(self, producer: object, streaming: bool) -> None:
        """This network has room for everything."""

    def unregisterProducer(self) -> None:
        """The same."""

    @property
    def path(self) -> bytes:
        """The URI without its query."""
        return self.uri.partition(b"?")[0]

    @property
    def args(self) -> dict[bytes, list[bytes]]:
        """The query's values by name."""
        return query_of(self.uri)

    def header(self, name: str) -> str | None:
        """A header's first value, or None."""
        values = self.requestHeaders.getRawHeaders(name.encode())
        return values[0].decode() if values else None

    def getClientAddress(self) -> _Address:
        """Where it comes from."""
        return _Address(self.source)


@define(eq=False)
class Response:
    """An answer as treq gives it; `cut` loses the connection in the middle of its body."""

    code: int
    headers: Headers
    body: bytes
    length: int
    cut: bool = False

    def deliverBody(self, protocol: Any) -> None:
        """All of the body at once."""
        protocol.dataReceived(self.body[: len(self.body) // 2] if self.cut else self.body)
        protocol.connectionLost(Failure(ConnectionLost() if self.cut else ResponseDone()))


@define(eq=False)
class Streamed:
    """An answer whose body comes in pieces, and the transport of who reads it."""

    headers: Headers
    hang_up: Callable[[], None]
    code: int = 200
    _reader: Any = None
    _early: list[bytes] = field(factory=list)
    _end: Failure | None = None

    def deliverBody(self, protocol: Any) -> None:
        """What has come, and all that comes."""
        self._reader = protocol
        protocol.makeConnection(self)
        for data in self._early:
            protocol.dataReceived(data)
        if self._end is not None:
            protocol.connectionLost(self._end)

    def arrive(self, data: bytes) -> None:
        """A piece is here."""
        if self._end is None and self._reader is not None:
            self._reader.dataReceived(data)
        elif self._end is None:
            self._early.append(data)

    def end(self, reason: Exception) -> None:
        """The body is whole, or breaks off."""
        if self._end is None:
            self._end = Failure(reason)
            if self._reader is not None:
                self._reader.connectionLost(self._end)

    def loseConnection(self) -> None:
        """The reader has had enough."""
        self._end = self._end or Failure(ConnectionLost())
        self.hang_up()

    def pauseProducing(self) -> None:
        """This network has room for everything."""

    def resumeProducing(self) -> None:
        """The same."""


Server = Callable[[Request], "Deferred[Reply | None]"]
Spoil = Callable[[Reply], Reply]


@define(eq=False)
class _Exchange:
    """A request on its way, at its server, or on its way back."""

    source: str
    target: str
    request: Callable[[], Request]
    done: Deferred[Response | Streamed] = field(init=False)
    serving: Deferred[Reply | None] | None = None
    dead: bool = False
    streamed: Streamed | None = None
    last_piece_at: float = 0.0
    stuck: bool = False
    """A piece was lost: what comes after it waits for ever."""

    def __attrs_post_init__(self) -> None:
        self.done = Deferred(lambda _: self.abandon())

    def abandon(self) -> None:
        """The client hangs up, or is no more: the server is told, as a connection tells it."""
        self.dead = True
        if self.serving is not None and not self.serving.called:
            self.serving.cancel()

    def fail(self, error: Exception) -> None:
        """The client hears of an error."""
        if self.dead:
            return
        if not self.done.called:
            self.dead = True
            self.done.errback(error)
        elif self.streamed is not None:
            self.dead = True
            self.streamed.end(error)

    @property
    def is_over(self) -> bool:
        """Whether nothing of it comes any more."""
        return self.dead or (self.done.called and self.streamed is None)


@define(eq=False)
class Network:
    """Hosts by name, and the links between them."""

    clock: Clock
    chance: random.Random
    servers: dict[str, Server] = field(factory=dict)
    spoiled: dict[tuple[str, str], Spoil] = field(factory=dict)
    """What to do to the next answer that comes from a host to another."""
    _links: dict[tuple[str, str], Link] = field(factory=dict)
    _open: list[_Exchange] = field(factory=list)

    def link(self, source: str, target: str) -> Link:
        """The state of the way from one host to another."""
        return self._links.get((source, target), Link.UP)

    def set_link(self, source: str, target: str, link: Link) -> None:
        """Change the way from one host to another."""
        self._links[source, target] = link

    def heal(self) -> None:
        """All ways are open and honest again."""
        self._links.clear()
        self.spoiled.clear()

    def client(self, source: str) -> Client:
        """What a node sends its requests with."""
        return Client(self, source)

    def drop(self, host: str) -> None:
        """A host dies: who waits for it hears that the connection is lost, who it asked too."""
        self.servers.pop(host, None)
        for exchange in self._open:
            if exchange.source == host:
                exchange.abandon()
            elif exchange.target == host:
                exchange.serving = None
                self._later(exchange, partial(exchange.fail, ConnectionLost()))
        self._open = [exchange for exchange in self._open if not exchange.dead]

    def send(self, exchange: _Exchange) -> Deferred[Response | Streamed]:
        """Put a request on its way."""
        self._open = [one for one in self._open if not one.is_over]
        self._open.append(exchange)
        self._later(exchange, lambda: self._arrived(exchange))
        if self.chance.random() < 0.05:  # a proxy that tries again
            self._later(exchange, lambda: self._repeated(exchange))
        return exchange.done

    def _later(self, exchange: _Exchange, then: Callable[[], None]) -> None:
        self.clock.callLater(self._delay(exchange), then)

    def _delay(self, exchange: _Exchange) -> float:
        slow = Link.SLOW in (
            self.link(exchange.source, exchange.target),
            self.link(exchange.target, exchange.source),
        )
        return self.chance.uniform(0.001, 3.0 if slow else 0.03)

    def _arrived(self, exchange: _Exchange) -> None:
        link = self.link(exchange.source, exchange.target)
        if exchange.dead or link is Link.CUT:
            return
        server = self.servers.get(exchange.target)
        if server is None or link is Link.REFUSED:
            exchange.fail(ConnectionRefusedError())
            return
        request = exchange.request()
        request.pieces = lambda data, headers: self._sent(exchange, data, headers)
        exchange.serving = server(request)
        exchange.serving.addCallback(lambda reply: self._answered(exchange, reply))
        exchange.serving.addErrback(lambda _: None)  # the connection was lost

    def _repeated(self, exchange: _Exchange) -> None:
        server = self.servers.get(exchange.target)
        if server is not None and self.link(exchange.source, exchange.target) is Link.UP:
            server(exchange.request()).addErrback(lambda _: None)

    def _sent(self, exchange: _Exchange, data: bytes | None, headers: dict[str, str]) -> None:
        """A piece of an answer leaves; pieces keep their order. None: it was the last one."""
        if self.link(exchange.source, exchange.target) is Link.MUTE:
            exchange.stuck = True
        soon = self.clock.seconds() + self._delay(exchange)
        exchange.last_piece_at = max(soon, exchange.last_piece_at + 1e-6)
        self.clock.callLater(
            exchange.last_piece_at - self.clock.seconds(), self._came, exchange, data, headers
        )

    def _came(self, exchange: _Exchange, data: bytes | None, headers: dict[str, str]) -> None:
        back = self.link(exchange.target, exchange.source)
        exchange.stuck |= back is Link.CUT
        if exchange.dead or exchange.stuck or exchange.target not in self.servers:
            return
        if exchange.streamed is None:
            fields = Headers({name: [value] for name, value in headers.items()})
            exchange.streamed = Streamed(fields, exchange.abandon)
            exchange.done.callback(exchange.streamed)
        spoil = self.spoiled.pop((exchange.target, exchange.source), None) if data else None
        if data is None:
            exchange.dead = True
            exchange.streamed.end(ResponseDone())
        elif spoil is None:
            exchange.streamed.arrive(data)
        else:
            spoiled = spoil(Reply(200, data, headers["Content-Type"]))
            exchange.streamed.arrive(spoiled.body)
            if spoiled.status != 200 or spoiled.headers:
                exchange.abandon()
                exchange.streamed.end(ConnectionLost())

    def _answered(self, exchange: _Exchange, reply: Reply | None) -> None:
        if reply is None:
            self._sent(exchange, None, {})
        elif self.link(exchange.source, exchange.target) is not Link.MUTE:
            self._later(exchange, lambda: self._returned(exchange, reply))

    def _returned(self, exchange: _Exchange, reply: Reply) -> None:
        back = self.link(exchange.target, exchange.source)
        if exchange.dead or exchange.done.called or back is Link.CUT:
            return
        if exchange.target not in self.servers:
            return  # it died meanwhile, and `drop` has told so
        spoil = self.spoiled.pop((exchange.target, exchange.source), None)
        whole = reply if spoil is None else spoil(reply)
        headers = Headers({name: [value] for name, value in whole.headers.items()})
        headers.setRawHeaders("Content-Type", [whole.content_type])
        cut = "X-Cut" in whole.headers
        exchange.done.callback(Response(whole.status, headers, whole.body, len(whole.body), cut))


@frozen
class Client:
    """`treq.client.HTTPClient`, as far as nodes use it."""

    network: Network
    source: str

    def request(
        self, method: str, url: str, headers: Headers | None = None, data: bytes | None = None,
        **_: object,
    ) -> Deferred[Response | Streamed]:  # fmt: skip
        """Send a request."""
        parts = urlsplit(url)
        uri = parts.path + (f"?{parts.query}" if parts.query else "")

        def made() -> Request:
            raw = (headers or Headers()).copy()
            return Request(self.source, method.encode(), uri.encode(), raw, BytesIO(data or b""))

        return self.network.send(_Exchange(self.source, parts.hostname or "", made))

    def post(self, url: str, **more: Any) -> Deferred[Response | Streamed]:
        """Send a POST."""
        return self.request("POST", url, **more)
