"""Writes go to the primary; the answer is held until this replica has applied what it says.

So a client reads its own writes here; unless this replica applies nothing any more, for what the
primary has acknowledged is done. Bodies stream through; none is held.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import unquote_to_bytes

from attrs import define, field
from twisted.internet.defer import Deferred
from twisted.web.iweb import UNKNOWN_LENGTH, IBodyProducer
from zope.interface import implementer  # type: ignore[attr-defined]

from cluster.clock import Clock, bounded
from cluster.errors import InvalidRequest, NotFound, Unavailable
from cluster.names import IndexName
from cluster.protocol import (
    CLIENT_HEADER,
    POSITION_HEADER,
    PRIMARY_HEADER,
    SERIAL_HEADER,
    VIA_HEADER,
)
from cluster.state.position import Position
from cluster.upstream.client import explain, first, read_body
from cluster.web.body import RequestStream
from cluster.web.identity import Identity
from cluster.web.outside import OUTSIDE_URL_HEADER, outside_url
from cluster.web.replies import Reply
from cluster.web.request import NodeRequest
from replica.following import STUCK, Following
from replica.primary_client import PrimaryClient
from replica.via import via_through

_APPLY_SECONDS = 30.0
_LOOK_SECONDS = 0.5
_UPLOAD_SECONDS = 4 * 3600.0
# The primary may have to fetch a whole release from an upstream, or to send one elsewhere.
_PUSH_SECONDS = 1800.0
_SMALL_SECONDS = 60.0
_ANSWER_BYTES = 1 << 20
_READ_SECONDS = 10.0
_PAGE_BYTES = 32 << 20
_PASSED_ON = ("Authorization", "X-Devpi-Auth", "Content-Type", "Accept", "User-Agent")
_PASSED_BACK = (
    "WWW-Authenticate",
    "Location",
    "Retry-After",
    "Allow",
    PRIMARY_HEADER,
    SERIAL_HEADER,
    POSITION_HEADER,
    "X-PyPI-Last-Serial",
)


@define
class Forwarding:
    """Sends clients' writes to the primary; `following` says how this replica does."""

    _client: PrimaryClient
    _position: Position
    _clock: Clock
    _primary_answered: Callable[[], None]
    _outside_url: str | None
    _identity: Identity
    _own: str
    _following: Callable[[], Following]

    async def small(self, request: NodeRequest) -> Reply:
        """Forward a client's request whose body is in memory; raises Unavailable."""
        _require_for_clients(request)
        return await self._small(request)

    async def from_node(self, request: NodeRequest, *, for_client: bool) -> Reply:
        """Forward what a replica that follows this one asks the primary; `for_client` is whether
        it asks for one of its clients.
        """
        self._identity.require_node(request, for_client=for_client)
        headers = self._headers(request)
        if not for_client:
            del headers[CLIENT_HEADER]
        body = request.content.read() or None
        return await self._forward(request, body, _SMALL_SECONDS, headers)

    async def _small(self, request: NodeRequest) -> Reply:
        body = request.content.read()
        is_push = request.method in (b"PUSH", b"POST")  # devpi takes either
        seconds = _PUSH_SECONDS if is_push else _SMALL_SECONDS
        return await self._forward(request, body or None, seconds)

    async def read(self, request: NodeRequest) -> Reply:
        """Have the primary answer a read that this replica cannot answer yet; raises Unavailable.

        Without our node token: the client reads what the client may.
        """
        path = request.uri.decode("ascii")
        # Else the primary would take our address for the client's: that may be its own machine.
        headers = {**self._passed(request), "X-Forwarded-For": self._identity.address(request)}
        work = Deferred.fromCoroutine(self._read("GET", path, headers))
        try:
            return await bounded(work, _READ_SECONDS, self._clock)
        except Exception as error:
            raise Unavailable(
                f"this replica is behind, and the primary is out of reach ({explain(error)})"
            ) from error

    async def _read(self, method: str, path: str, headers: Mapping[str, str]) -> Reply:
        response = await self._client.send(method, path, headers)
        body = await read_body(response, _PAGE_BYTES)
        values = {name: first(response, name) for name in (*_PASSED_BACK, "ETag")}
        passed = {name: value for name, value in values.items() if value is not None}
        content_type = first(response, "Content-Type") or "text/plain; charset=utf-8"
        caching = {"Cache-Control": "no-store"}
        return Reply(response.code, body, content_type, {**passed, **caching})

    async def stream(self, request: NodeRequest, stream: RequestStream) -> Reply:
        """Forward a request with a large body; raises Unavailable."""
        _require_for_clients(request)
        return await self._forward(request, _Streamed(stream), _UPLOAD_SECONDS)

    async def upload(self, request: NodeRequest, stream: RequestStream, index: IndexName) -> Reply:
        """Forward an upload; raises Unavailable.

        The primary is asked for leave first: a refusal must reach the client before gigabytes
        are sent, and through two connections it could not do so reliably afterwards.
        """
        path = f"/+node/admit/{index}?size={stream.length or 0}"
        headers = self._headers(request)
        try:
            leave = await self._client.ask("GET", path, headers)
        except Exception as error:
            raise _away(error) from error
        if leave.status != 204:
            return await self._relayed(leave.response, leave.body)
        return await self._forward(request, _Streamed(stream), _UPLOAD_SECONDS)

    def _passed(self, request: NodeRequest) -> dict[str, str]:
        given = {name: request.header(name) for name in _PASSED_ON}
        return {name: value for name, value in given.items() if value is not None}

    def _headers(self, request: NodeRequest) -> dict[str, str]:
        return {
            **self._passed(request),
            **self._client.headers(),
            CLIENT_HEADER: self._identity.address(request),
            VIA_HEADER: via_through(request, self._own),
            # Links in the answer are for this replica's clients.
            OUTSIDE_URL_HEADER: outside_url(request, self._outside_url),
        }

    async def _forward(
        self, request: NodeRequest, body: object, seconds: float,
        headers: Mapping[str, str] | None = None,
    ) -> Reply:  # fmt: skip
        path, method = request.uri.decode("ascii"), request.method.decode("ascii")
        headers = self._headers(request) if headers is None else headers
        work = Deferred.fromCoroutine(self._exchange(method, path, headers, body))
        try:
            reply = await bounded(work, seconds, self._clock)
        except Exception as error:
            raise _away(error) from error
        # Beyond that bound: what is stored must not be called unknown because it is late here.
        serial = reply.headers.get(SERIAL_HEADER, "")
        if reply.status < 400 and serial.isdigit():
            await self._applied(int(serial))
        return reply

    async def _applied(self, serial: int) -> None:
        """Wait until a serial is applied here, if it may be soon."""
        end = self._clock.seconds() + _APPLY_SECONDS
        while (now := self._clock.seconds()) < end and self._following().state not in STUCK:
            is_here = await self._position.reached(serial, _LOOK_SECONDS)
            # Who is woken before, and in vain, is told by that to wait no more.
            if is_here or self._clock.seconds() < now + _LOOK_SECONDS:
                return

    async def _exchange(
        self, method: str, path: str, headers: Mapping[str, str], body: object
    ) -> Reply:
        response = await self._client.send(method, path, headers, body)
        if isinstance(body, _Streamed):
            body.answered = True
        return await self._relayed(response, await read_body(response, _ANSWER_BYTES))

    async def _relayed(self, response: Any, body: bytes) -> Reply:
        self._primary_answered()
        values = {name: first(response, name) for name in _PASSED_BACK}
        headers = {name: value for name, value in values.items() if value is not None}
        reason = response.phrase.decode("latin-1") if response.code >= 400 else None
        content_type = first(response, "Content-Type") or "text/plain; charset=utf-8"
        return Reply(response.code, body, content_type, headers, reason)


def _require_for_clients(request: NodeRequest) -> None:
    # Whatever we send on carries our own proof that a node asks: nobody else may use it.
    parts = unquote_to_bytes(request.path).split(b"/")
    if b"+node" in parts or b"+log" in parts:
        raise NotFound("only nodes of this cluster may ask for this, and not in this way")


def _away(error: Exception) -> Unavailable:
    return Unavailable(
        f"the primary, which takes all changes, is out of reach ({explain(error)}); "
        "nothing is known to be stored, try again"
    )


@implementer(IBodyProducer)
@define(eq=False)
class _Streamed:
    """The body of a client's request, at the pace of the slower connection."""

    _stream: RequestStream
    length: object = field(init=False)
    answered: bool = False
    """Whether the primary's answer is here, so that the rest of the body is of no use."""

    def __attrs_post_init__(self) -> None:
        self.length = UNKNOWN_LENGTH if self._stream.length is None else self._stream.length

    def startProducing(self, consumer: Any) -> Deferred[None]:
        return Deferred.fromCoroutine(self._deliver(consumer))

    async def _deliver(self, consumer: Any) -> None:
        try:
            await self._stream.deliver(consumer)
        except InvalidRequest:
            if not self.answered:
                raise
            # A client that read the refusal and hung up. Twisted would log both an error and too
            # short a body here: the primary closes this connection, and that ends it.
            await Deferred()

    def pauseProducing(self) -> None:
        self._stream.pauseProducing()

    def resumeProducing(self) -> None:
        self._stream.resumeProducing()

    def stopProducing(self) -> None:
        self._stream.abandon()
