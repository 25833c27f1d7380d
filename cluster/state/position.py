"""How far this node is: the head of its log, who wants to know, and waiting for a serial.

Lives on the reactor; the writer and the follower move it after their commit.
"""

from __future__ import annotations

from typing import Protocol

from attrs import define, evolve, field, frozen
from twisted.internet.defer import Deferred
from twisted.logger import Logger

from cluster.clock import Clock
from cluster.state.rows import Touched


@frozen
class Head:
    """The last entry of the log here: its serial, epoch, Merkle root, and time (RFC 3339)."""

    serial: int
    epoch: int
    root: bytes
    time: str | None


class Listener(Protocol):
    """Somebody who caches something that entries can change."""

    def __call__(self, head: Head, touched: Touched) -> None:
        """Hear of a commit; called on the reactor, in order, before any waiter wakes."""


@define
class Position:
    """The head, its listeners, and those who wait for a serial to be applied here."""

    _log = Logger()

    _clock: Clock
    head: Head
    _listeners: list[Listener] = field(factory=list)
    _waiting: list[tuple[int, Deferred[bool]]] = field(factory=list)

    @property
    def serial(self) -> int:
        """The last serial applied here."""
        return self.head.serial

    def listen(self, listener: Listener) -> None:
        """Call `listener` after every commit from now on."""
        self._listeners.append(listener)

    def advance(self, head: Head, touched: Touched) -> None:
        """Move to a committed head: first caches hear of it, then waiters wake."""
        self.head = head
        for listener in self._listeners:
            try:
                listener(head, touched)
            except Exception:  # what is committed must be acknowledged all the same
                self._log.failure("a listener failed at serial {serial}", serial=head.serial)
        due = [waiter for serial, waiter in self._waiting if serial <= head.serial]
        self._waiting = [(s, waiter) for s, waiter in self._waiting if s > head.serial]
        for waiter in due:
            # A waiter woken before may have cancelled this one.
            if not waiter.called:
                waiter.callback(True)

    def rewind(self, head: Head) -> None:
        """Move back to an earlier head: what lay behind it is in no log any more.

        Caches take it for one change of everything, behind all that they have read: a page of
        what was taken back must not come again when the serial is the same once more.
        """
        behind = self.head.serial + 1
        self.head = head
        for listener in self._listeners:
            try:
                listener(evolve(head, serial=behind), Touched(indexes=True))
            except Exception:
                self._log.failure("a listener failed at the way back to {serial}",
                                  serial=head.serial)  # fmt: skip
        # Who waits for news here follows us: it must hear of this at once.
        self.wake_all()

    async def reached(self, serial: int, timeout_seconds: float) -> bool:
        """Wait until `serial` is applied here; False when that takes too long."""
        if self.head.serial >= serial:
            return True
        waiter: Deferred[bool] = Deferred(lambda d: self._forget(d))
        self._waiting.append((serial, waiter))
        give_up = self._clock.callLater(timeout_seconds, self._give_up, waiter)
        try:
            return await waiter
        finally:
            if give_up.active():
                give_up.cancel()

    def wake_all(self) -> None:
        """Answer all who wait, as if their time had run out: for an orderly shutdown."""
        for _, waiter in list(self._waiting):
            self._give_up(waiter)

    def _give_up(self, waiter: Deferred[bool]) -> None:
        self._forget(waiter)
        if not waiter.called:
            waiter.callback(False)

    def _forget(self, waiter: Deferred[bool]) -> None:
        self._waiting = [(s, w) for s, w in self._waiting if w is not waiter]
