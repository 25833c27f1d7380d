"""Whether the files of hosted indexes are all here: files are fetched when asked for, so a
replica can be in sync with the log and still need the primary for bytes.
"""

from __future__ import annotations

from attrs import define
from sqlalchemy import Connection
from twisted.internet.defer import Deferred
from twisted.logger import Logger

from cluster.clock import Clock, Delayed
from cluster.files.store import FileStore
from cluster.state import queries
from cluster.state.database import Database
from cluster.state.position import Position

_EVERY_SECONDS = 15.0


@define(eq=False)
class FileSync:
    """Counts, now and then, which uploaded files are not in this replica's store."""

    _log = Logger()

    _database: Database
    _store: FileStore
    _position: Position
    _clock: Clock
    missing: int | None = None
    checked_serial: int = 0
    _checked_count: int = -1
    _timer: Delayed | None = None

    @property
    def in_sync(self) -> bool | None:
        """Whether no uploaded file is missing; None before the first look."""
        return None if self.missing is None else self.missing == 0

    def start(self) -> None:
        """Look now, and again whenever something changed."""
        self._timer = self._clock.callLater(_EVERY_SECONDS, self.start)
        state = (self._position.serial, self._store.counters.count)
        if state != (self.checked_serial, self._checked_count):
            Deferred.fromCoroutine(self._look(*state)).addErrback(
                lambda failure: self._log.failure("counting missing files failed", failure)
            )

    def stop(self) -> None:
        """Look no more."""
        if self._timer is not None and self._timer.active():
            self._timer.cancel()

    async def _look(self, serial: int, count: int) -> None:
        self.missing = await self._database.read(self._count_missing)
        self.checked_serial, self._checked_count = serial, count

    def _count_missing(self, connection: Connection) -> int:
        digests = queries.hosted_digests(connection)
        return sum(not self._store.path(sha256).exists() for sha256 in digests)
