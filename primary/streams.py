"""Answers that go on: whoever follows gets page after page in one, those of later commits too.

A question and an answer for each commit would be most of what following costs, on both sides; who
is behind would wait for the next page while it could be made, and make the next one wait for it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

from attrs import define, evolve, field
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IPushProducer
from twisted.logger import Logger
from zope.interface import implementer  # type: ignore[attr-defined]

from cluster.clock import Clock
from cluster.errors import PymirrorError
from cluster.log.merkle import Frontier
from cluster.protocol import FRAME, POLL_WAIT_SECONDS, STREAM_TYPE, TELL, encode_frame
from cluster.state.position import Position
from cluster.web.identity import Identity
from cluster.web.polls import Polls
from cluster.web.request import NodeRequest
from cluster.web.tail import NO_STORE, Asked, Page
from primary.acks import Acks

CONFIRM_SECONDS: Final = 5.0
"""A follower says in half a second how far it is: a page that it says nothing of for longer was
held back on its way, by a front that collects answers."""
_HELD_BACK_SECONDS: Final = 600.0
Behind = Callable[[Asked], Awaitable[Page]]
_HEADERS: Final = {
    **NO_STORE,
    "Content-Type": STREAM_TYPE,
    "X-Accel-Buffering": "no",  # what nginx is told by
}


@implementer(IPushProducer)
@define(eq=False)
class _Stream:
    """One answer; all before `at` has been written."""

    request: NodeRequest
    at: int
    _wanted: int = 0
    _draining: Deferred[None] | None = None
    _is_full: bool = False

    def open(self) -> None:
        """Send the head of the answer."""
        for name, value in _HEADERS.items():
            self.request.setHeader(name, value)
        self.request.registerProducer(self, True)
        self.request.write(b"")

    def close(self) -> None:
        """Write no more; whoever handles the request finishes it."""
        if not self.request.lost:
            self.request.unregisterProducer()

    def write(self, page: Page, end: int, head: int) -> None:
        """Send a page that ends at `end`."""
        self.at = end
        self.request.write(encode_frame(page.body, page.encoding, head))
        self._tell()

    def tell(self, serial: int) -> None:
        """Have the follower say that it has `serial`, as soon as it has it."""
        self._wanted = max(self._wanted, serial)
        self._tell()

    def _tell(self) -> None:
        if 0 < self._wanted <= self.at and not self.request.lost:
            self.request.write(FRAME.pack(TELL, self.at, 0))
            self._wanted = 0

    async def drained(self) -> None:
        """Wait until there is room for another page: of each follower, one is in memory here."""
        if self._is_full:
            self._draining = Deferred()
            await self._draining

    def pauseProducing(self) -> None:
        """What was written does not leave."""
        self._is_full = True

    def resumeProducing(self) -> None:
        """It has left."""
        self._is_full = False
        if self._draining is not None and not self._draining.called:
            self._draining.callback(None)

    def stopProducing(self) -> None:
        """The connection is lost, and the request hears of that."""


@define(eq=False)
class Streams:
    """All answers that go on now."""

    _log = Logger()

    _clock: Clock
    _position: Position
    _polls: Polls
    _acks: Acks
    _identity: Identity
    _open: set[_Stream] = field(factory=set)
    _held_back: dict[str, float] = field(factory=dict)

    def suits(self, node: str, question: Asked) -> bool:
        """Whether a follower is answered by a stream."""
        until = self._held_back.get(node, 0.0)
        return question.streams and until <= self._clock.seconds()

    def tell(self, serial: int) -> None:
        """Somebody waits until replicas have `serial`."""
        for stream in self._open:
            stream.tell(serial)

    def stop(self) -> None:
        """Let nobody wait for room: the node is going down, and the polls have been ended."""
        for stream in list(self._open):
            stream.resumeProducing()

    async def send(
        self, node: str, request: NodeRequest, question: Asked, behind: Behind,
        first: Page | None = None,
    ) -> None:  # fmt: skip
        """Write pages, which `behind` gives, for as long as a poll may wait; `first` if it is
        known already. Whatever is wrong meanwhile ends the stream: what, the next question is
        answered.
        """
        stream = _Stream(request, question.start)
        stream.open()
        self._open.add(stream)
        try:
            await self._write(node, stream, question, behind, first)
        except PymirrorError as error:
            self._log.debug("a stream to {node} ends: {error}", node=node, error=str(error))
        finally:
            self._open.discard(stream)
            stream.close()

    async def _write(
        self, node: str, stream: _Stream, question: Asked, behind: Behind, page: Page | None
    ) -> None:
        ends = self._clock.seconds() + POLL_WAIT_SECONDS
        while True:
            if page is None and not await self._has_news(node, stream, ends):
                return
            page = page or await behind(question)
            after = page.after or Frontier()
            is_last = after.size <= stream.at
            stream.write(page, max(after.size, stream.at), self._position.serial)
            # An empty page, whose checkpoint says that there was no more, is the last one.
            if is_last or self._clock.seconds() >= ends:
                return
            question, page = evolve(question, start=after.size, root=after.root), None
            await stream.drained()

    async def _has_news(self, node: str, stream: _Stream, ends: float) -> bool:
        """Whether to go on, at the latest when it `ends`: by a page, or by an empty one."""
        while True:
            left = max(0.0, ends - self._clock.seconds())
            is_told = self._acks.position(node) >= stream.at
            seconds = left if is_told else min(left, CONFIRM_SECONDS)
            if not await self._polls.wait(node, stream.at + 1, seconds):
                return False
            self._identity.require_admitted(node)  # it may have been revoked meanwhile
            if seconds == left or self._position.serial > stream.at:
                return True
            if self._acks.position(node) < stream.at:
                self._held_back[node] = self._clock.seconds() + _HELD_BACK_SECONDS
                return True
