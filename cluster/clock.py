"""The part of Twisted's reactor that tells time, as our code sees it: `Clock` in tests."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeVar

from twisted.internet.defer import Deferred

T = TypeVar("T")


class Delayed(Protocol):
    """A call that has not happened yet (`twisted.internet.interfaces.IDelayedCall`)."""

    def active(self) -> bool:
        """Whether it will still happen."""

    def cancel(self) -> None:
        """Make it not happen."""


class Clock(Protocol):
    """`twisted.internet.interfaces.IReactorTime` in types that a checker can follow."""

    def seconds(self) -> float:
        """Monotonic seconds (see `cluster.monotonic`)."""

    def callLater(self, delay: float, f: Callable[..., object], *args: object) -> Delayed:
        """Call `f` after `delay` seconds."""


async def pause(clock: Clock, seconds: float) -> None:
    """Wait so long."""
    waiter: Deferred[None] = Deferred()
    timer = clock.callLater(seconds, waiter.callback, None)
    try:
        await waiter
    finally:
        if timer.active():
            timer.cancel()


async def bounded(work: Deferred[T], seconds: float, clock: Clock) -> T:
    """Wait for `work` at most so long, then cancel it; raises what it raises."""
    timer = clock.callLater(seconds, work.cancel)
    try:
        return await work
    finally:
        if timer.active():
            timer.cancel()
