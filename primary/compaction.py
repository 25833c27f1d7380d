"""Which entries of the log may go, and their removal. Tiles stay, so every proof stays possible.

Kept are: all entries behind the older of two snapshots, `entries` more below it, those younger
than `days`, those that the slowest replica heard of in the last day needs (as long as it is not
more than another `entries` behind), and those that something on this node needs still.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Final

from attrs import define, frozen
from sqlalchemy import Connection, func, select
from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from cluster.clock import Clock, Delayed
from cluster.log import changelog
from cluster.state import queries, schema
from cluster.state.database import Database
from primary.snapshots import KEPT, Snapshots, reason

DEFAULT_ENTRIES: Final = 1_000_000
DEFAULT_DAYS: Final = 30
_BATCH = 2_000
_EVERY_SECONDS = 3_600.0
# What something on this node has yet to read, it has read in seconds.
_NEEDED_SECONDS = 5.0
_HEARD_SECONDS = 86_400.0

Needs = Callable[[], Awaitable[int | None]]
"""The last serial that is not needed any more by something, None when it needs nothing."""


@frozen
class Retention:
    """What an operator wants to keep: entries below the older snapshot, and days."""

    entries: int = DEFAULT_ENTRIES
    days: int = DEFAULT_DAYS


def new_minimum(older_snapshot: int, slowest: int | None, retention: Retention) -> int:
    """The serial up to which entries may go, as far as snapshots and replicas decide it."""
    floor = older_snapshot - retention.entries
    if slowest is not None:
        # As a replication slot with a bound: a replica that is away for good keeps nothing.
        floor = min(floor, max(slowest, floor - retention.entries))
    return max(0, floor)


def serial_before(connection: Connection, moment: str) -> int:
    """The last serial recorded before a moment (RFC 3339), by bisection."""
    low, high = changelog.minimum(connection), changelog.size(connection)
    while low < high:
        middle = (low + high + 1) // 2
        if queries.time_of(connection, middle) < moment:
            low = middle
        else:
            high = middle - 1
    return low


def oldest_staged(connection: Connection) -> int | None:
    """The serial before the oldest change that waits for its stage: triggers tell of it later."""
    first = connection.execute(select(func.min(schema.staged.c.serial))).scalar()
    return None if first is None else first - 1


@define(eq=False)
class Compaction:
    """Removes entries after each new snapshot, and every hour.

    `slowest` is the position of the slowest replica heard of within so many seconds; `needs`
    are what else reads the log on this node.
    """

    _log = Logger()

    _database: Database
    _snapshots: Snapshots
    _clock: Clock
    _now: Callable[[], float]
    _slowest: Callable[[float], int | None]
    _needs: Needs
    retention: Retention
    _timer: Delayed | None = None
    _running: Deferred[None] | None = None
    _again: bool = False
    _held: bool = False
    _stopping: bool = False

    def look(self) -> None:
        """Remove what may go, and look again in an hour; returns at once."""
        if self._stopping:
            return
        self._look_in(_EVERY_SECONDS)
        if self._running is not None and not self._running.called:
            self._again = True
            return
        self._running = Deferred.fromCoroutine(self._run())
        self._running.addErrback(self._failed)

    def _failed(self, failure: Failure) -> None:
        self._log.failure("compacting the log failed", failure)
        self._snapshots.compaction_error = reason(failure.value)

    def _look_in(self, seconds: float) -> None:
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        self._timer = self._clock.callLater(seconds, self.look)

    async def stop(self) -> None:
        """End after the batch that is being removed."""
        self._stopping = True
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        if self._running is not None and not self._running.called:
            await self._running

    async def _run(self) -> None:
        self._again = True
        while self._again and not self._stopping:
            self._again = False
            await self.compact()
        self._snapshots.compaction_error = None
        if self._held and not self._stopping:
            self._look_in(_NEEDED_SECONDS)

    async def compact(self) -> int:
        """Remove what may go, in batches between which others write; the log's minimum then."""
        upto = await self.target()
        removed = 0
        while not self._stopping:
            count = await self._database.write(lambda c: changelog.remove(c, upto, _BATCH))
            if not count:
                break
            removed += count
        self._snapshots.minimum = await self._database.read(changelog.minimum)
        if removed:
            self._log.info("removed {removed} entries; the log begins behind {minimum}",
                           removed=removed, minimum=self._snapshots.minimum)  # fmt: skip
        return self._snapshots.minimum

    async def target(self) -> int:
        """The serial up to which entries may go now; 0 for none."""
        self._held = False
        kept = self._snapshots.kept
        if len(kept) < KEPT:
            return 0
        upto = new_minimum(kept[0].serial, self._slowest(_HEARD_SECONDS), self.retention)
        if upto <= self._snapshots.minimum:
            return 0
        needed = await self._needs()
        moment = datetime.fromtimestamp(self._now() - 86_400 * self.retention.days, UTC)
        limits = await self._database.read(lambda c: self._limits(c, moment))
        upto = min(upto, *limits)
        self._held = needed is not None and needed < upto
        return upto if needed is None else min(upto, needed)

    def _limits(self, connection: Connection, moment: datetime) -> list[int]:
        staged = oldest_staged(connection)
        text = moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        return [serial_before(connection, text), *([] if staged is None else [staged])]
