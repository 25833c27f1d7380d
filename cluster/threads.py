"""Work off the reactor thread: disk, hashing, zip, database, big rendering.

Code that must not block is given `Threads` by the composition root; tests that want determinism
give it `Inline`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from threading import Thread
from typing import ParamSpec, TypeVar, cast

from attrs import define, field
from twisted.internet.interfaces import IReactorFromThreads
from twisted.internet.threads import deferToThreadPool
from twisted.python.threadpool import ThreadPool

P = ParamSpec("P")
T = TypeVar("T")


@define
class Threads:
    """A bounded pool of `size` threads, named for logs and debuggers."""

    _reactor: IReactorFromThreads
    size: int
    name: str
    _pool: ThreadPool = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._pool = ThreadPool(minthreads=0, maxthreads=self.size, name=self.name)
        # A pool that nobody stopped must not keep a process from ending: what it does is safe
        # against being killed anyway.
        self._pool.threadFactory = cast(type[Thread], partial(Thread, daemon=True))

    def start(self) -> None:
        """Start the pool; what was queued before now begins to run."""
        self._pool.start()

    def stop(self) -> None:
        """Wait for running functions to end and stop the threads."""
        self._pool.stop()

    async def run(self, f: Callable[P, T], *args: P.args, **kw: P.kwargs) -> T:
        """Call `f` in one of the pool's threads; raises what it raises."""
        return await deferToThreadPool(self._reactor, self._pool, f, *args, **kw)


class Inline:
    """Runs each function at once in the caller's thread: for tests and command-line tools."""

    async def run(self, f: Callable[P, T], *args: P.args, **kw: P.kwargs) -> T:
        """Call `f` here and now; raises what it raises."""
        return f(*args, **kw)


Runner = Threads | Inline
"""What code that must not block is given."""
