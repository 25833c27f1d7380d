"""Answers that go on: who has everything gets what is committed next as one more page of it.

A question and an answer for each commit would be most of what following costs, on both sides.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

from attrs import define, evolve, field
from twisted.internet.interfaces import IPushProducer
from twisted.logger import Logger
from zope.interface import implementer  # type: ignore[attr-defined]

from cluster.clock import Clock
from cluster.errors import PymirrorError
from cluster.protocol import FRAME, STREAM_TYPE, TELL, encode_frame
from cluster.web.identity import Identity
from cluster.web.polls import Polls
from cluster.web.request import NodeRequest
from cluster.web.tail import NO_STORE, Asked, Page
from primary.acks import Acks

CONFIRM_SECONDS: Final = 5.0
"""A follower says in half a second how far it is: a page that it says nothing of for longer was
held back on its way, by a front that collects answers."""
_HELD_BACK_SECONDS: Final = 600.0
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
    is_slow: bool = False
    _wanted: int = 0

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

    def write(self, page: Page, end: int) -> None:
        """Send a page that ends at `end`."""
        self.at = end
        self.request.write(encode_frame(page.body, page.encoding))
        self._tell()

    def tell(self, serial: int) -> None:
        """Have the follower say that it has `serial`, as soon as it has it."""
        self._wanted = max(self._wanted, serial)
        self._tell()

    def _tell(self) -> None:
        if 0 < self._wanted <= self.at and not self.request.lost:
            self._wanted = 0
            self.request.write(FRAME.pack(TELL, 0))

    def pauseProducing(self) -> None:
        """The follower reads more slowly than this log grows: it is to ask for each page."""
        self.is_slow = True

    def resumeProducing(self) -> None:
        """It has read what was written."""

    def stopProducing(self) -> None:
        """The connection is lost, and the request hears of that."""


@define(eq=False)
class Streams:
    """All answers that go on now."""

    _log = Logger()

    _clock: Clock
    _polls: Polls
    _acks: Acks
    _identity: Identity
    _open: set[_Stream] = field(factory=set)
    _held_back: dict[str, float] = field(factory=dict)

    def suits(self, node: str, question: Asked) -> bool:
        """Whether a follower that has everything is answered by a stream."""
        until = self._held_back.get(node, 0.0)
        return question.streams and until <= self._clock.seconds()

    def tell(self, serial: int) -> None:
        """Somebody waits until replicas have `serial`."""
        for stream in self._open:
            stream.tell(serial)

    async def send(
        self, node: str, request: NodeRequest, question: Asked,
        behind: Callable[[Asked], Awaitable[Page]],
    ) -> None:  # fmt: skip
        """Write pages, which `behind` gives, until the follower has waited as long as it wants.

        Whatever is wrong meanwhile ends the stream: what it is, the next question is answered.
        """
        stream = _Stream(request, question.start)
        stream.open()
        self._open.add(stream)
        try:
            await self._write(node, stream, question, behind)
        except PymirrorError as error:
            self._log.debug("a stream to {node} ends: {error}", node=node, error=str(error))
        finally:
            self._open.discard(stream)
            stream.close()

    async def _write(
        self, node: str, stream: _Stream, question: Asked,
        behind: Callable[[Asked], Awaitable[Page]],
    ) -> None:  # fmt: skip
        ends = self._clock.seconds() + question.wait_seconds
        while True:
            left = max(0.0, ends - self._clock.seconds())
            is_told = self._acks.position(node) >= stream.at
            seconds = left if is_told else min(left, CONFIRM_SECONDS)
            goes_on = await self._polls.wait(node, stream.at + 1, seconds)
            self._identity.require_admitted(node)  # it may have been revoked meanwhile
            page = await behind(question)
            if page.after is None or page.after.size == stream.at:
                if goes_on and seconds < left and self._acks.position(node) >= stream.at:
                    continue
                if goes_on and seconds < left:
                    self._held_back[node] = self._clock.seconds() + _HELD_BACK_SECONDS
                # An empty page, whose checkpoint says that there was no more, is the last one.
                stream.write(page, stream.at)
                return
            stream.write(page, page.after.size)
            if stream.is_slow or not goes_on:
                return
            question = evolve(question, start=page.after.size, root=page.after.root)
