"""A request's body as a stream with back-pressure, for those too large for memory."""

from __future__ import annotations

from typing import Protocol

from attrs import define, field
from twisted.internet.defer import Deferred

from cluster.errors import InvalidRequest
from cluster.files.sink import Pausable

_PAUSE_BYTES = 1 << 20


class BodyConsumer(Protocol):
    """Takes a body's bytes as they come."""

    def write(self, data: bytes) -> None:
        """Take bytes; to slow the client down, pause the stream."""


@define(eq=False)
class RequestStream:
    """Bytes between the client's connection and a consumer that may come later.

    Until `deliver` names a consumer, at most a megabyte is held, and the connection is paused.
    `length` is the body's announced length in bytes, None for a chunked one.
    """

    _connection: Pausable
    length: int | None
    _received: int = 0
    _held: list[bytes] = field(factory=list)
    _held_bytes: int = 0
    _consumer: BodyConsumer | None = None
    _discard_left: int | None = None
    ended: bool = False
    _lost: bool = False
    _paused: bool = False
    _done: Deferred[None] = field(factory=Deferred)
    _on_discarded: Deferred[None] = field(factory=Deferred)

    @property
    def left(self) -> int:
        """How many of the announced bytes have not come yet."""
        return max(0, (self.length or 0) - self._received)

    def feed(self, data: bytes) -> None:
        """Bytes came from the connection."""
        self._received += len(data)
        if self._discard_left is not None:
            self._discard_left -= len(data)
            self._check_discarded()
        elif self._consumer is not None:
            self._consumer.write(data)
        else:
            self._held.append(data)
            self._held_bytes += len(data)
            if self._held_bytes > _PAUSE_BYTES:
                self.pauseProducing()

    def end(self) -> None:
        """The body is whole."""
        self.ended = True
        if self._discard_left is not None:
            self._check_discarded()
        elif self._consumer is not None:
            self._done.callback(None)

    def lose(self) -> None:
        """The connection went away."""
        self._lost = True
        if self._discard_left is not None:
            self._check_discarded()
        elif self._consumer is not None and not self.ended:
            self._fail()

    async def deliver(self, consumer: BodyConsumer) -> None:
        """Hand the whole body to `consumer`, in order; raises InvalidRequest if it breaks off."""
        self._consumer = consumer
        held, self._held = self._held, []
        # Ours ends here; a consumer that pauses while it takes what was held means it.
        was_paused, self._paused = self._paused, False
        for data in held:
            consumer.write(data)
        if self.ended:
            return
        if self._lost:
            self._fail()
        elif was_paused and not self._paused:
            self._connection.resumeProducing()
        await self._done

    async def discard(self, most_bytes: int) -> None:
        """Read and drop what still comes, up to a bound, so that the client sees our answer."""
        self._consumer = None
        self._held.clear()
        self._discard_left = most_bytes
        self._check_discarded()
        if not self._on_discarded.called:
            self.resumeProducing()
        await self._on_discarded

    def stop_discarding(self) -> None:
        """The client took too long; stop reading."""
        self._discard_left = 0
        self._check_discarded()

    def pauseProducing(self) -> None:
        """Read no more from the connection for now."""
        if not self._paused and not self.ended:
            self._paused = True
            self._connection.pauseProducing()

    def resumeProducing(self) -> None:
        """Read on."""
        if self._paused:
            self._paused = False
            self._connection.resumeProducing()

    def stopProducing(self) -> None:
        """The consumer wants no more: nothing to do, it will say why in the answer."""

    def abandon(self) -> None:
        """The consumer is gone: what still comes is dropped, and `deliver` ends."""
        self._consumer = None
        self._discard_left = _PAUSE_BYTES
        self._fail()

    def _check_discarded(self) -> None:
        over = self.ended or self._lost or (self._discard_left or 0) <= 0
        if over and not self._on_discarded.called:
            self._on_discarded.callback(None)

    def _fail(self) -> None:
        # Of a whole body nothing broke, and `deliver` does not wait for what comes of it.
        if not self._done.called and not self.ended:
            self._done.errback(InvalidRequest("the connection broke inside the request's body"))
