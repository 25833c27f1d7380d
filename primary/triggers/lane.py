"""The life of one target: told of one event after the other, in order, each until it is taken.

Order of effects: the receiver answers 2xx → the row is gone from local.sqlite → the next event.
A process that dies between the first two delivers the event again.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from typing import Any, Final

from attrs import define, field
from twisted.internet.defer import CancelledError, Deferred, DeferredSemaphore
from twisted.logger import Logger
from twisted.python.failure import Failure

from cluster.clock import Clock
from cluster.errors import UpstreamError
from cluster.state.database import Database
from cluster.upstream.health import iso
from primary.triggers import progress
from primary.triggers.sender import Refused, shown_url
from primary.triggers.tables import Item, Key, Setting, State

FIRST_DELAY_SECONDS: Final = 1.0
MAX_DELAY_SECONDS: Final = 300.0

Deliver = Callable[[Key, Setting, Item], Awaitable[None]]
"""Tells a target of one event; raises Refused, or anything else to try again later."""


def delay_seconds(failures: int, chance: random.Random) -> float:
    """How long to wait after so many failures in a row: twice as long each time, up to a cap,
    less up to a half, so that targets of one receiver do not come back together."""
    longest = min(MAX_DELAY_SECONDS, FIRST_DELAY_SECONDS * 2.0 ** min(failures - 1, 20))
    return longest * chance.uniform(0.5, 1.0)


@define(eq=False)
class Bell:
    """Wakes the one who waits, or will wait next; also by itself after a while."""

    _clock: Clock
    _rung: bool = False
    _waiter: Deferred[None] | None = None

    def ring(self) -> None:
        """Wake who waits."""
        self._rung = True
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.called:
            waiter.callback(None)

    def clear(self) -> None:
        """Forget that it rang."""
        self._rung = False

    async def wait(self, seconds: float | None = None) -> None:
        """Until it rings (at once if it has), or for so long."""
        if not self._rung:
            waiter: Deferred[None] = Deferred()
            self._waiter = waiter
            timer = None if seconds is None else self._clock.callLater(seconds, self.ring)
            try:
                await waiter
            finally:
                self._waiter = None
                if timer is not None and timer.active():
                    timer.cancel()
        self._rung = False


@define(eq=False)
class Lane:
    """Works off the queue of one target."""

    _log = Logger()

    key: Key
    state: State
    _local: Database
    _deliver: Deliver
    _at_once: DeferredSemaphore
    _clock: Clock
    _now: Callable[[], float]
    _chance: random.Random = field(factory=random.Random)
    _bell: Bell = field(init=False)
    _failures: int = 0
    _next_try: float | None = None
    _running: Deferred[None] | None = None
    _stopped: bool = False

    def __attrs_post_init__(self) -> None:
        self._bell = Bell(self._clock)

    def start(self) -> None:
        """Begin to tell what is queued; returns at once."""
        self._running = Deferred.fromCoroutine(self._run())
        self._running.addErrback(cancelled)

    async def stop(self) -> None:
        """Break off what is under way: it stays queued."""
        self._stopped = True
        if self._running is not None and not self._running.called:
            self._running.cancel()
            await self._running

    def changed(self, state: State) -> None:
        """More is queued, or the target was set anew: that ends the wait for the next try."""
        set_anew, self.state = state.setting != self.state.setting, state
        if set_anew:
            self._failures = 0
        if set_anew or self._next_try is None:
            self._bell.ring()

    def document(self) -> dict[str, Any]:
        """How this target does, for the status document."""
        state = self.state
        return {
            "index": self.key.index,
            "kind": self.key.target.value,
            "target": shown_url(state.setting.url),
            "position": state.position,
            "pending": state.pending,
            "dropped": state.dropped,
            "last_success": iso(state.last_success),
            "last_error": state.last_error,
            "failing_since": iso(state.failing_since),
            "next_try": iso(self._next_try),
        }

    def stopping(self) -> bool:
        """Whether it was told to end."""
        return self._stopped

    async def _run(self) -> None:
        while not self.stopping():
            try:
                item = await self._local.read(lambda c: progress.oldest(c, self.key))
                if item is None:
                    await self._bell.wait()
                elif not await self._tell(item):
                    await self._pause()
            except CancelledError:
                raise
            except Exception:  # local.sqlite itself: nothing is lost by trying again
                self._log.failure("the queue of {key} cannot be read or written", key=self.key)
                self._failures += 1
                await self._pause()

    async def _tell(self, item: Item) -> bool:
        """Whether this item is done with."""
        try:
            await self._send(item)
        except Refused as error:
            self._log.warn("{key}: dropped {item}: {error}", key=self.key, item=item, error=error)
            text = str(error)
            self._take(await self._local.write(lambda c: progress.refused(c, self.key, item, text)))
        except Exception as error:
            if not self.stopping():
                await self._failed(error)
            return False
        else:
            if self._failures:
                self._log.info("{key} takes events again", key=self.key)
            now = self._now()
            self._take(await self._local.write(lambda c: progress.told(c, self.key, item, now)))
        self._failures = 0
        return True

    async def _send(self, item: Item) -> None:
        await self._at_once.acquire()
        try:
            await self._deliver(self.key, self.state.setting, item)
        finally:
            self._at_once.release()

    async def _failed(self, error: Exception) -> None:
        text, now, dropped = str(error), self._now(), self.state.dropped
        if not isinstance(error, UpstreamError):
            text = type(error).__name__
            self._log.failure("{key}: a failure that was not foreseen", key=self.key)
        elif not self._failures:
            self._log.warn("{key} cannot be told: {error}", key=self.key, error=text)
        self._failures += 1
        self._take(await self._local.write(lambda c: progress.failed(c, self.key, text, now)))
        if self.state.dropped > dropped:
            count = self.state.dropped - dropped
            self._log.error(
                "{key} failed for a day: {count} events dropped", key=self.key, count=count
            )

    def _take(self, state: State | None) -> None:
        if state is not None:
            self.state = state

    async def _pause(self) -> None:
        if self.stopping():
            return
        # What rang until now were more events: they wait as well.
        seconds = delay_seconds(max(1, self._failures), self._chance)
        self._bell.clear()
        self._next_try = self._now() + seconds
        try:
            await self._bell.wait(seconds)
        finally:
            self._next_try = None


def cancelled(failure: Failure) -> None:
    """The end of a coroutine that was told to end."""
    failure.trap(CancelledError)
