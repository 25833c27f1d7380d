"""Keeps the cache within `--cache-size`: what was used longest ago goes first.

The cache is what others can give again: files of mirrors, and on a replica that does not keep
them all, uploads. Uploads that this node keeps are neither counted nor taken away, nor is any
upload while nobody who keeps it can be reached; nor a file that is being read or was used within
the last minute.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

from attrs import define
from sqlalchemy import ColumnElement, Connection, exists, func, select
from twisted.internet.defer import Deferred
from twisted.logger import Logger

from cluster.clock import Clock, Delayed
from cluster.files import hosted, ledger
from cluster.files.hosted import HostedFiles
from cluster.files.ledger import FileLedger
from cluster.files.store import FileStore

CHECK_SECONDS: Final = 5.0
YOUNG_SECONDS: Final = 60.0
_BATCH = 200


@define(eq=False)
class CacheBound:
    """Takes files away in the background.

    `limit_bytes` None means no bound. `can_return` says whether uploads that this node does not
    keep could be fetched again now.
    """

    _log = Logger()

    limit_bytes: int | None
    _store: FileStore
    _ledger: FileLedger
    _hosted: HostedFiles
    _clock: Clock
    can_return: Callable[[], bool] = lambda: False
    young_seconds: float = YOUNG_SECONDS
    used_bytes: int | None = None
    evicted: int = 0
    evicted_bytes: int = 0
    _timer: Delayed | None = None
    _checked: tuple[int, int] | None = None
    _checking: Deferred[None] | None = None

    def start(self) -> None:
        """Look now, and again every few seconds."""
        self._timer = self._clock.callLater(CHECK_SECONDS, self.start)
        if self._checking is not None and not self._checking.called:
            return  # two at a time would count what both take away twice
        self._checking = Deferred.fromCoroutine(self.check())
        self._checking.addErrback(
            lambda failure: self._log.failure("bounding the cache failed", failure)
        )

    def stop(self) -> None:
        """Look no more."""
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        self._timer = None

    def document(self) -> dict[str, Any]:
        """The `cache` part of the status."""
        return {
            "limit_bytes": self.limit_bytes,
            "used_bytes": self.used_bytes,
            "evicted": self.evicted,
            "evicted_bytes": self.evicted_bytes,
        }

    async def check(self) -> None:
        """Count what the cache holds, and take away what is too much."""
        if not self._hosted.is_current(self.young_seconds / 2):
            return  # as long as it is not known which files are uploads, none is a cache
        counters = self._store.counters
        state = (counters.count, counters.bytes)
        is_over = self._is_over()
        if state == self._checked and not is_over:
            return
        self._checked = state
        await self._ledger.flush()
        self.used_bytes = await self._ledger.database.read(_cached_bytes)
        while self._is_over() and await self._evict_some():
            pass

    def _is_over(self) -> bool:
        used = self.used_bytes
        return self.limit_bytes is not None and used is not None and used > self.limit_bytes

    async def _evict_some(self) -> bool:
        young_from = self._ledger.now() - self.young_seconds
        spares_uploads = not self.can_return()
        coldest = await self._ledger.database.read(
            lambda c: _coldest(c, young_from, spares_uploads)
        )
        gone = 0
        for sha256, size in coldest:
            if not self._is_over() or self._timer is None:
                return False
            if self._store.is_used(sha256) or self._ledger.is_recent(sha256, young_from):
                continue
            # Its size is counted down at once: whoever adds meanwhile must not be counted twice.
            if await self._store.take_away(sha256) is not None:
                gone += 1
                self.used_bytes = (self.used_bytes or 0) - size
                self.evicted += 1
                self.evicted_bytes += size
        await self._ledger.flush()
        return gone > 0


def _is_upload(*, kept_only: bool) -> ColumnElement[bool]:
    named = select(hosted.table.c.sha256).where(hosted.table.c.sha256 == ledger.table.c.sha256)
    return exists(named.where(hosted.table.c.kept == 1) if kept_only else named)


def _cached_bytes(connection: Connection) -> int:
    statement = select(func.coalesce(func.sum(ledger.table.c.size), 0)).where(
        ledger.table.c.cached == 1, ~_is_upload(kept_only=True)
    )
    return int(connection.execute(statement).scalar() or 0)


def _coldest(connection: Connection, before: float, spares_uploads: bool) -> Sequence[Any]:
    of = ledger.table
    statement = select(of.c.sha256, of.c.size).where(
        of.c.cached == 1, of.c.used_at < before, ~_is_upload(kept_only=not spares_uploads)
    )
    return connection.execute(statement.order_by(of.c.used_at).limit(_BATCH)).all()
