"""One event that many coroutines wait for."""

from __future__ import annotations

from attrs import define, field
from twisted.internet.defer import Deferred


@define
class Broadcast:
    """Wakes everyone who waits, with no value: waiters look again at the state they wait for.

    So a waiter loops ``while not <state>: await broadcast.wait()``, and an error is part of the
    state: no Deferred fails unheard when nobody waits.
    """

    _waiters: list[Deferred[None]] = field(factory=list)

    def wait(self) -> Deferred[None]:
        """A Deferred that fires at the next `wake`; it may be cancelled."""
        waiter: Deferred[None] = Deferred(self._forget)
        self._waiters.append(waiter)
        return waiter

    def wake(self) -> None:
        """Fire all Deferreds handed out so far."""
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            # A waiter woken before may have cancelled this one.
            if not waiter.called:
                waiter.callback(None)

    def _forget(self, waiter: Deferred[None]) -> None:
        if waiter in self._waiters:
            self._waiters.remove(waiter)
