"""One piece of work at a time for each key, shared by all who ask for it meanwhile."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Hashable
from typing import Any, Generic, TypeVar

from attrs import define, field
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")


@define
class SingleFlight(Generic[K, T]):
    """Runs work at most once for a key at any time. Whoever stops waiting does not stop it."""

    _waiting: dict[K, list[Deferred[T]]] = field(factory=dict)

    async def run(self, key: K, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Join the work that runs for `key`, or start it; raises what it raises."""
        waiter: Deferred[T] = Deferred()
        if key in self._waiting:
            self._waiting[key].append(waiter)
        else:
            self._waiting[key] = [waiter]
            Deferred.fromCoroutine(work()).addBoth(self._done, key)
        return await waiter

    def _done(self, result: T | Failure, key: K) -> None:
        for waiter in self._waiting.pop(key):
            if waiter.called:  # cancelled
                continue
            if isinstance(result, Failure):
                waiter.errback(result)
            else:
                waiter.callback(result)
