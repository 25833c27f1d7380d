"""Which files hosted indexes hold, and which of them are here.

Derived from the state, in the node's own database: made anew at each start, then kept up to date
from the entries that come, so that nothing is scanned for a question. Distribution files, their
metadata and attestations, documentation and tox results all count.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final

from attrs import define, field
from sqlalchemy import (
    Column,
    Connection,
    Float,
    Index,
    Integer,
    MetaData,
    Table,
    Text,
    bindparam,
    delete,
    func,
    select,
    text,
    update,
)  # fmt: skip
from twisted.internet.defer import Deferred
from twisted.logger import Logger

from cluster.clock import Clock, Delayed
from cluster.files.hostedrows import BATCH, SOURCES, Named, Row, named_since, page, upsert
from cluster.files.store import FileStore
from cluster.state.database import Database
from cluster.state.position import Head, Position
from cluster.state.rows import Touched

metadata = MetaData()

table = Table(
    "hosted_files",
    metadata,
    Column("sha256", Text, primary_key=True),
    Column("filename", Text, nullable=False),
    Column("size", Integer),
    # Of the first entry that named it, as far as this node has seen.
    Column("serial", Integer, nullable=False),
    # 1: this node keeps it whether anybody asks for it or not.
    Column("kept", Integer, nullable=False),
    Column("here", Integer, nullable=False),
    Column("tries", Integer, nullable=False, default=0),
    Column("retry_at", Float, nullable=False, default=0.0),
    Column("generation", Integer, nullable=False),
    Index("hosted_files_missing", "serial", "kept", sqlite_where=text("here = 0")),
)

# Made once: making a statement takes longer than running it.
_NOTE: Final = (
    update(table).where(table.c.sha256 == bindparam("name")).values(here=bindparam("is_here"))
)
_FIRST_MISSING: Final = select(func.min(table.c.serial)).where(table.c.here == 0)
_MISSING: Final = select(
    func.count(), func.coalesce(func.sum(table.c.kept), 0), func.min(table.c.serial)
).where(table.c.here == 0)

RESCAN_SECONDS: Final = 3_600.0
_RETRY_SECONDS = 5.0
_PAUSE_SECONDS = 0.02
# Where no file is fetched ahead (on a primary, on a lazy replica), many uploads are one look:
# nothing waits for the figures.
_GATHER_SECONDS = 0.5
# A catch-up that brings so many entries during one look goes first: it needs the machine.
_RUSH_ENTRIES = 1_000
_RUSH_SECONDS = 1.0
_LAZY_RUSH_SECONDS = 10.0
_LEAST_RESCAN_SECONDS = 60.0
# Counting so many takes a while: not at each change.
_MANY = 20_000
_COUNT_SECONDS = 5.0
_MOST_ENTRIES = 5_000


@define(eq=False)
class HostedFiles:
    """Keeps the table; `keeps` tells of which indexes this node keeps all files.

    `listeners` are called whenever the figures may have changed.
    """

    _log = Logger()

    _database: Database
    local: Database
    _position: Position
    _store: FileStore
    _clock: Clock
    keeps: Callable[[str], bool] = lambda index: True
    missing: int | None = None
    missing_kept: int = 0
    serial: int = 0
    """Up to which the table is complete."""
    files_position: int = 0
    """The greatest serial up to which all files of hosted indexes are here."""
    listeners: list[Callable[[], None]] = field(factory=list)
    is_eager: bool = False
    """Whether somebody waits for the figures: files are fetched and acknowledged by them."""
    _generation: int = 0
    _rescan_at: float = 0.0
    _counted_at: float = 0.0
    _busy: bool = False
    _again: bool = False
    _gathering: bool = False
    _rushed: bool = False
    _looked_at: int = 0
    _changes: dict[str, int] = field(factory=dict)
    _timer: Delayed | None = None
    _has_failed: bool = False
    _current_at: float = 0.0
    _rewinds: int = 0
    _looking: Deferred[None] | None = None
    _stopped: bool = False

    def start(self) -> None:
        """Begin: all files are looked for in the background."""
        self._position.listen(self._moved)
        self._store.watchers.append(self)
        self._look()

    async def stop(self) -> None:
        """Look no more, and wait for a look that goes on."""
        self._stopped = True
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        if self._looking is not None:
            await self._looking

    def added(self, sha256: str, size: int, *, fetched: bool) -> None:
        """A file is here now."""
        self._changes[sha256] = 1
        self._news()

    def gone(self, sha256: str) -> None:
        """A file is not here any more."""
        self._changes[sha256] = 0
        self._news()

    def used(self, sha256: str) -> None:
        """Nothing changes."""

    def is_current(self, within_seconds: float) -> bool:
        """Whether all is known that entries named until so many seconds ago."""
        if self.missing is None:
            return False
        is_at_head = self.serial >= self._position.serial
        return is_at_head or self._clock.seconds() - self._current_at <= within_seconds

    async def note_here(self, sha256: str) -> None:
        """A file has been added: known to all who ask when this returns."""
        await self.local.write(lambda c: _note(c, {sha256: 1}))
        self._look()

    def rescan(self) -> None:
        """Look through the whole state once more, soon: some of it may be removed by now."""
        soon = self._rescan_at - RESCAN_SECONDS + _LEAST_RESCAN_SECONDS
        self._rescan_at = min(self._rescan_at, max(soon, self._clock.seconds()))

    def _moved(self, head: Head, touched: Touched) -> None:
        here = self._position.serial
        if head.serial > here:
            # Taken back: other entries will have these serials, and their files are not known.
            self._rewinds += 1
            self.serial = min(self.serial, here)
            self.files_position = min(self.files_position, here)
        self._news()

    def _news(self) -> None:
        if (self.is_eager or self.missing is None) and not self._rushed:
            self._look()
        elif self._busy:
            self._again = True
        elif not self._gathering and not self._stopped:
            self._look_in(_GATHER_SECONDS)
            self._gathering = True

    def _look_in(self, seconds: float) -> None:
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        self._timer = self._clock.callLater(seconds, self._look)

    def _look(self) -> None:
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        self._timer, self._gathering, self._rushed = None, False, False
        if self._stopped:
            return
        if self._busy:
            self._again = True
            return
        self._busy = True
        self._looking = Deferred.fromCoroutine(self._up_to_date())
        self._looking.addErrback(self._failed).addBoth(self._looked)

    def _failed(self, failure: Any) -> None:
        self._has_failed = True
        if not self._stopped:
            self._log.failure("looking for uploaded files failed", failure)

    def _looked(self, _: object) -> None:
        self._busy = False
        if self._stopped:
            return
        if self._again:
            self._again = False
            self._rushed = self._position.serial - self._looked_at >= _RUSH_ENTRIES
            pause, rush = _GATHER_SECONDS, _LAZY_RUSH_SECONDS
            if self.is_eager:
                pause, rush = _PAUSE_SECONDS, _RUSH_SECONDS
            self._look_in(rush if self._rushed else pause)
            self._gathering = True
        else:
            seconds = max(1.0, self._rescan_at - self._clock.seconds())
            if self._has_failed:
                self._has_failed, seconds = False, _RETRY_SECONDS
            self._look_in(seconds)

    async def _up_to_date(self) -> None:
        position, since, rewinds = self._position.serial, self.serial, self._rewinds
        current_at, self._looked_at = self._clock.seconds(), position
        # In steps: whoever catches up with a long log comes here often on the way.
        head = min(position, since + _MOST_ENTRIES)
        named: list[Named] | None = []
        if current_at >= self._rescan_at:
            named = None
        elif head > since:
            named = await self._database.read(lambda c: named_since(c, since, head))
        if named is None:
            head = position
            await self._scan(head)
        first = await self._noted(named or [])
        if rewinds != self._rewinds:
            return  # what was read is of a history that is no more; the next look is due
        self.serial = max(self.serial, head)
        if self.serial < position:
            self._again = True
        else:
            self._current_at = current_at
        self.files_position = self.serial if first is None else min(first - 1, self.serial)
        for listener in self.listeners:
            listener()

    async def _noted(self, named: Sequence[Named]) -> int | None:
        """Write what was found, and count; the first serial of which a file is missing."""
        changes, self._changes = self._changes, {}
        try:
            return await self._write(named, changes)
        except Exception:
            # The next look writes them: a file that is gone must not count as one that is here.
            self._changes = {**changes, **self._changes}
            raise

    async def _write(self, named: Sequence[Named], changes: dict[str, int]) -> int | None:
        while len(named) > BATCH:
            await self._put(named[:BATCH])
            named = named[BATCH:]
        rows, now = self._rows(named), self._clock.seconds()
        counts = self.missing is None or self.missing < _MANY
        counts = counts or now >= self._counted_at + _COUNT_SECONDS

        def work(connection: Connection) -> tuple[Any, int | None]:
            upsert(connection, rows, self._store.is_here)
            _note(connection, changes)
            if not counts:
                return None, connection.execute(_FIRST_MISSING).scalar()
            missing, kept, first = connection.execute(_MISSING).one()
            return (missing, kept), first

        # One transaction: this is done for each page that a replica follows.
        counted, first = await self.local.write(work)
        if counted is not None:
            (self.missing, self.missing_kept), self._counted_at = counted, now
        return first

    async def _scan(self, head: int) -> None:
        self._rescan_at = self._clock.seconds() + RESCAN_SECONDS
        self._generation = 1 + await self.local.read(_last_generation)
        after: tuple[str, ...] | None = ("", "", "")
        for source in SOURCES:
            after = ("", "", "")
            while after is not None and not self._stopped:
                at = after
                batch, after = await self._database.read(partial(page, source=source, after=at))
                await self._put(batch)
        if self._stopped:
            return
        generation = self._generation
        await self.local.write(
            lambda c: c.execute(delete(table).where(table.c.generation < generation)) and None
        )

    async def _put(self, named: Sequence[Named]) -> None:
        # On the database's own thread, as `_noted`: a file that comes between the look at the
        # disk and the row would be missed otherwise.
        for at in range(0, len(named), BATCH):
            rows = self._rows(named[at : at + BATCH])
            await self.local.write(partial(upsert, rows=rows, is_here=self._store.is_here))

    def _rows(self, named: Sequence[Named]) -> list[Row]:
        kept = {index: int(self.keeps(index)) for index in {each.index for each in named}}
        return [
            (each.sha256, each.filename, each.size, each.serial, kept[each.index], self._generation)
            for each in named
        ]


def _note(connection: Connection, changes: dict[str, int]) -> None:
    if changes:
        noted = [{"name": name, "is_here": here} for name, here in changes.items()]
        connection.execute(_NOTE, noted)


def _last_generation(connection: Connection) -> int:
    return connection.execute(select(func.max(table.c.generation))).scalar() or 0


def wanted(connection: Connection, now: float, most: int) -> Sequence[Any]:
    """Rows of files that are to be kept, are not here, and may be tried now, oldest first."""
    statement = select(table).where(table.c.here == 0, table.c.kept == 1, table.c.retry_at <= now)
    return connection.execute(statement.order_by(table.c.serial).limit(most)).all()


def put_off(connection: Connection, sha256: str, retry_at: float) -> None:
    """A file could not be had: not before `retry_at` again."""
    connection.execute(
        update(table).where(table.c.sha256 == sha256)
        .values(tries=table.c.tries + 1, retry_at=retry_at)
    )  # fmt: skip


def try_all_again(connection: Connection) -> None:
    """Whoever was out of reach is back."""
    connection.execute(update(table).where(table.c.here == 0).values(tries=0, retry_at=0.0))
