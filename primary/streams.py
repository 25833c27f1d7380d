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
from cluster.protocol import (
    FRAME,
    POLL_TIMEOUT_SECONDS,
    POLL_WAIT_SECONDS,
    STREAM_TYPE,
    TELL,
    encode_frame,
)
from cluster.state.position import Position
from cluster.web.identity import Identity
from cluster.web.polls import MOST_PER_NODE, Polls
from cluster.web.request import NodeRequest
from cluster.web.tail import NO_STORE, Asked, Page

CONFIRM_SECONDS: Final = 5.0
"""A follower says in a second how far it is: if it is silent for longer while there are pages
that it has not confirmed, they are held back on their way, by a front that collects answers."""
HELD_BACK_SECONDS: Final = 600.0
_HEADERS: Final = {
    **NO_STORE,
    "Content-Type": STREAM_TYPE,
    "X-Accel-Buffering": "no",  # what nginx is told by
}
Behind = Callable[[Asked], Awaitable[Page]]


class _Stuck(PymirrorError):
    """A follower reads nothing of what was sent."""


@implementer(IPushProducer)
@define(eq=False)
class _Stream:
    """One answer; all before `at` has been written. `silent_since` is when its node was heard of
    last, or when the first page was written that it has not confirmed; None if there is none.
    """

    node: str
    request: NodeRequest
    at: int
    _clock: Clock
    silent_since: float | None = None
    is_ended: bool = False
    _wanted: set[int] = field(factory=set)
    _draining: Deferred[bool] | None = None
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

    def end(self) -> None:
        """Let it end soon: nothing is waited for any more."""
        self.is_ended = True
        self._drain(True)

    def write(self, page: Page, end: int, head: int) -> None:
        """Send a page that ends at `end`."""
        if end > self.at and self.silent_since is None:
            self.silent_since = self._clock.seconds()
        self.at = end
        self.request.write(encode_frame(page.body, page.encoding, head))
        self._tell()

    def heard(self, position: int) -> None:
        """The follower says how far it is."""
        self.silent_since = None if position >= self.at else self._clock.seconds()

    def patience(self) -> float:
        """For how many seconds the follower may still be silent."""
        if self.silent_since is None:
            return POLL_WAIT_SECONDS
        return max(0.0, self.silent_since + CONFIRM_SECONDS - self._clock.seconds())

    def tell(self, serial: int) -> None:
        """Have the follower say that it has `serial`, as soon as it has it."""
        self._wanted.add(serial)
        self._tell()

    def _tell(self) -> None:
        due = {serial for serial in self._wanted if serial <= self.at}
        if due and not self.request.lost:
            self.request.write(FRAME.pack(TELL, self.at, 0))
            self._wanted -= due

    async def drained(self) -> None:
        """Wait until there is room for another page: of each stream, one is in memory here.

        Raises _Stuck when that takes longer than a follower waits for a page.
        """
        if self._is_full and not self.is_ended:
            draining = self._draining = Deferred()
            timer = self._clock.callLater(POLL_TIMEOUT_SECONDS, self._drain, False)
            try:
                if not await draining:
                    raise _Stuck(f"{self.node} reads nothing")
            finally:
                self._draining = None
                if timer.active():
                    timer.cancel()

    def _drain(self, is_empty: bool) -> None:
        if self._draining is not None and not self._draining.called:
            self._draining.callback(is_empty)

    def pauseProducing(self) -> None:
        """What was written does not leave."""
        self._is_full = True

    def resumeProducing(self) -> None:
        """It has left."""
        self._is_full = False
        self._drain(True)

    def stopProducing(self) -> None:
        """The connection is lost, and the request hears of that."""


@define(eq=False)
class Streams:
    """All answers that go on now."""

    _log = Logger()

    _clock: Clock
    _position: Position
    _polls: Polls
    _identity: Identity
    _open: list[_Stream] = field(factory=list)
    _held_back: dict[str, float] = field(factory=dict)

    def suits(self, node: str, question: Asked) -> bool:
        """Whether a follower is answered by a stream."""
        now = self._clock.seconds()
        self._held_back = {one: until for one, until in self._held_back.items() if until > now}
        return question.streams and node not in self._held_back

    def tell(self, serial: int) -> None:
        """Somebody waits until replicas have `serial`."""
        for stream in self._open:
            stream.tell(serial)

    def heard(self, node: str, position: int) -> None:
        """A follower says between two questions how far it is."""
        for stream in self._open:
            if stream.node == node:
                stream.heard(position)

    def stop(self) -> None:
        """Let all end: the node is going down, and the polls have been ended."""
        for stream in self._open:
            stream.end()

    async def send(
        self, node: str, request: NodeRequest, question: Asked, behind: Behind,
        first: Page | None = None,
    ) -> None:  # fmt: skip
        """Write pages, which `behind` gives, for as long as a poll may wait; `first` if it is
        known already. Whatever is wrong meanwhile ends the stream: what, the next question is
        answered. Raises TooManyRequests when too many wait already.
        """
        self._polls.require_room()
        for older in [one for one in self._open if one.node == node][: -(MOST_PER_NODE - 1)]:
            older.end()
        stream = _Stream(node, request, question.start, self._clock)
        stream.open()
        self._open.append(stream)
        try:
            await self._write(stream, question, behind, first)
        except _Stuck as error:
            self._log.info("{error}", error=str(error))
            request.channel.forceAbortClient()
        except PymirrorError as error:
            self._log.debug("a stream to {node} ends: {error}", node=node, error=str(error))
        finally:
            self._open.remove(stream)
            stream.close()

    async def _write(
        self, stream: _Stream, question: Asked, behind: Behind, page: Page | None
    ) -> None:
        ends = self._clock.seconds() + POLL_WAIT_SECONDS
        while not stream.is_ended:
            if page is None and not await self._has_news(stream, ends):
                return
            page = page or await behind(question)
            self._identity.require_admitted(stream.node)  # it may have been revoked meanwhile
            after = page.after or Frontier()
            is_last = after.size <= stream.at
            stream.write(page, max(after.size, stream.at), self._position.serial)
            is_held_back = self._is_held_back(stream)
            # An empty page, whose checkpoint says that there was no more, is the last one.
            if is_last or is_held_back or self._clock.seconds() >= ends:
                return
            question, page = evolve(question, start=after.size, root=after.root), None
            await stream.drained()

    async def _has_news(self, stream: _Stream, ends: float) -> bool:
        """Whether to go on, at the latest when it `ends`: by a page, or by an empty one."""
        while True:
            now = self._clock.seconds()
            until = min(ends, now + stream.patience())
            if not await self._polls.wait(stream.node, stream.at + 1, max(0.0, until - now)):
                return False
            # Who is woken before that time has news, or all were woken, as a fence does.
            is_woken = self._clock.seconds() < until or self._position.serial > stream.at
            is_over = self._clock.seconds() >= ends or stream.patience() == 0.0
            if is_woken or is_over or stream.is_ended:
                return True
            # Else the follower was heard of meanwhile.

    def _is_held_back(self, stream: _Stream) -> bool:
        if stream.patience() > 0.0:
            return False
        self._log.info(
            "{node} says nothing of what it is sent: single pages for {seconds:g} s",
            node=stream.node, seconds=HELD_BACK_SECONDS,
        )  # fmt: skip
        self._held_back[stream.node] = self._clock.seconds() + HELD_BACK_SECONDS
        return True
