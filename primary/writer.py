"""Group commit: the only code that appends to the change log.

Writers hand in a function that looks at the state and decides what changes. All that wait
share one transaction and one fsync. Order of effects: entries, tiles and state commit together
→ caches hear of it → followers and read-your-writes waiters wake → the writer gets its serial.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime

from attrs import define, field, frozen
from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError
from twisted.internet.defer import Deferred
from twisted.logger import Logger

from cluster.errors import Unavailable
from cluster.log import changelog
from cluster.log.changes import Change, Entry, Kind, encode
from cluster.log.driver import STORE_ERRORS, driver
from cluster.log.merkle import Frontier
from cluster.names import IndexName
from cluster.protocol import POSITION_HEADER, SERIAL_HEADER
from cluster.state.apply import apply
from cluster.state.database import Database
from cluster.state.position import Head, Position
from cluster.state.rows import Touched

Decide = Callable[[Connection], Sequence[Change]]
OnCommit = Callable[[Frontier, Sequence[bytes], Frontier], None]
"""Told of each commit: the frontier before, the entries, the frontier after."""

Confirm = Callable[["str", "Written", "IndexName | None"], Awaitable[None]]
"""Waits, after a commit, until the write by an actor on an index may be acknowledged."""

_MAX_GROUP = 256
_NAME_FILES = frozenset(
    {Kind.FILE_ADDED, Kind.DOCS_SET, Kind.TOXRESULT_ADDED, Kind.STAGE_PUBLISHED}
)


@frozen
class Written:
    """The serial of a write's last entry, or the head's when nothing had to change; and whether
    it named files, as far as is known. `epoch` is that of the log there.
    """

    serial: int
    changed: bool
    with_files: bool = field(default=True, eq=False)
    epoch: int = field(default=0, eq=False)

    @property
    def headers(self) -> dict[str, str]:
        """What the answer to the write says of it."""
        position = f"{self.epoch}.{self.serial}"
        return {SERIAL_HEADER: str(self.serial), POSITION_HEADER: position}


@define
class _Pending:
    actor: str
    decide: Decide
    done: Deferred[Written] = field(factory=Deferred)


@frozen
class _Outcome:
    """What became of one group: a result or an error for each write in it."""

    frontier: Frontier
    entries: list[bytes]
    results: list[Written | Exception]
    touched: Touched
    time: str | None


def utc_now() -> datetime:
    """The wall clock, in UTC: entries carry it as information only."""
    return datetime.now(UTC)


def timestamp(moment: datetime) -> str:
    """RFC 3339 with microseconds and ``Z``, as entries carry it."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _not_stored(error: Exception) -> Unavailable:
    # SQLAlchemy's own text holds the statement and its parameters: other people's changes.
    reason = error.orig if isinstance(error, DBAPIError) else error
    return Unavailable(f"the change could not be stored: {reason}")


@define
class Writer:
    """Appends decided changes to the log of one epoch."""

    _log = Logger()

    database: Database
    position: Position
    epoch: int
    frontier: Frontier
    on_commit: OnCommit | None = None
    guard: Callable[[], None] = lambda: None
    confirm: Confirm | None = None
    _now: Callable[[], datetime] = utc_now
    _pending: list[_Pending] = field(factory=list)
    _running: Deferred[None] | None = None
    _stopped: bool = False

    async def write(
        self, actor: str, decide: Decide, index: IndexName | None = None, *, confirmed: bool = True
    ) -> Written:  # fmt: skip
        """Let `decide` look at the state and record what it returns; durable when this returns.

        `decide` runs on the writer thread in the transaction that will hold its changes; an
        error it raises is raised here, and nothing of its is recorded. `index` may ask for more
        replicas to have the write before this returns; without `confirmed` it waits for none.
        Raises Unavailable while shutting down, when fenced before it returns, or when too few
        replicas have it in time.
        """
        if self._stopped:
            raise Unavailable("this primary is shutting down; try again in a few seconds")
        self.guard()
        pending = _Pending(actor, decide)
        self._pending.append(pending)
        if self._running is None or self._running.called:
            self._running = Deferred.fromCoroutine(self._run())
        written = await pending.done
        if confirmed and self.confirm is not None:
            await self.confirm(actor, written, index)
        # Who fenced us meanwhile may have asked already how far we are: what is stored since is
        # lost if that node is promoted, so nobody may take it for done.
        self.guard()
        return written

    async def stop(self) -> None:
        """Refuse new writes and wait for those that were accepted."""
        self._stopped = True
        if self._running is not None and not self._running.called:
            finished: Deferred[None] = Deferred()
            self._running.addBoth(lambda _: finished.callback(None))
            await finished

    async def _run(self) -> None:
        while self._pending:
            group, self._pending = self._pending[:_MAX_GROUP], self._pending[_MAX_GROUP:]
            await self._commit(group)

    async def _commit(self, group: list[_Pending]) -> None:
        try:
            self.guard()
            outcome = await self.database.write(lambda c: self._transaction(c, group))
        except Unavailable as error:  # fenced meanwhile
            for pending in group:
                pending.done.errback(error)
            return
        except Exception as error:  # the transaction is rolled back: nobody is acknowledged
            self._log.failure("a group of {count} writes failed", count=len(group))
            for pending in group:
                pending.done.errback(_not_stored(error))
            return
        if outcome.frontier.size != self.frontier.size:
            before, self.frontier = self.frontier, outcome.frontier
            self._tell(before, outcome)
            head = Head(outcome.frontier.size, self.epoch, outcome.frontier.root, outcome.time)
            self.position.advance(head, outcome.touched)
        for pending, result in zip(group, outcome.results, strict=True):
            if isinstance(result, Exception):
                pending.done.errback(result)
            else:
                pending.done.callback(result)

    def _tell(self, before: Frontier, outcome: _Outcome) -> None:
        try:
            if self.on_commit is not None:
                self.on_commit(before, outcome.entries, outcome.frontier)
        except Exception:  # what is committed must be acknowledged all the same
            self._log.failure("telling of a commit failed")

    def _transaction(self, connection: Connection, group: list[_Pending]) -> _Outcome:
        frontier, touched, raw = self.frontier, Touched(), driver(connection)
        time = timestamp(self._now())
        results: list[Written | Exception] = []
        appended: list[bytes] = []
        for pending in group:
            raw.execute("SAVEPOINT one_write")
            try:
                entries = self._apply(connection, pending, frontier.size, time, touched)
                extended = changelog.append(connection, frontier, entries)
            except Exception as error:  # only this write fails; the others go on
                raw.execute("ROLLBACK TO one_write")
                results.append(_not_stored(error) if isinstance(error, STORE_ERRORS) else error)
                continue
            raw.execute("RELEASE one_write")
            frontier = extended
            appended += [entry.raw for entry in entries]
            named = not entries or any(entry.kind in _NAME_FILES for entry in entries)
            results.append(Written(frontier.size, bool(entries), named, self.epoch))
        return _Outcome(frontier, appended, results, touched, time)

    def _apply(
        self, connection: Connection, pending: _Pending, size: int, time: str, touched: Touched
    ) -> list[Entry]:
        entries = []
        for serial, change in enumerate(pending.decide(connection), start=size + 1):
            entry = encode(change, serial=serial, epoch=self.epoch, time=time, actor=pending.actor)
            apply(connection, entry, touched)
            entries.append(entry)
        return entries
