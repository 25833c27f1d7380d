"""The account of a node's files: when each was last used and last re-hashed, and whether others
can give it again. Outside the log, in the node's own database.

Uses are noted in memory and written at most once a minute for each file; a power cut costs the
last minute of them. What the account lacks or has too much is put right at each start.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import partial
from itertools import groupby
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
    case,
    delete,
    func,
    select,
    update,
)  # fmt: skip
from sqlalchemy.dialects.sqlite import Insert, insert
from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger

from cluster.clock import Clock, Delayed
from cluster.files.store import FileStore
from cluster.state.database import Database

metadata = MetaData()

table = Table(
    "stored_files",
    metadata,
    Column("sha256", Text, primary_key=True),
    Column("size", Integer, nullable=False),
    # 1: it was fetched, and can be again; 0: it was uploaded, or is about to be named so.
    Column("cached", Integer, nullable=False),
    Column("used_at", Float, nullable=False),
    # A file is hashed as it arrives; 0 for one that was here before there was an account.
    Column("scrubbed_at", Float, nullable=False),
    Index("stored_files_used", "used_at"),
    Index("stored_files_scrubbed", "scrubbed_at"),
)

USE_SECONDS: Final = 60.0
CHANGE_SECONDS: Final = 0.5
STRANGER_SECONDS: Final = 86_400.0
"""A file that nobody has accounted for may be an upload that is not logged yet, for so long."""


@define(eq=False)
class FileLedger:
    """Watches the store (`cluster.files.store.Watcher`); `now` is seconds since 1970."""

    _log = Logger()

    database: Database
    now: Callable[[], float]
    _clock: Clock
    _changes: list[dict[str, Any]] = field(factory=list)
    _uses: dict[str, float] = field(factory=dict)
    _recent: dict[str, float] = field(factory=dict)
    _change_timer: Delayed | None = None
    _use_timer: Delayed | None = None
    _reconciling: Deferred[None] | None = None
    _stopped: bool = False

    def added(self, sha256: str, size: int, *, fetched: bool) -> None:
        """A file is kept."""
        now = self.now()
        self._changes.append(
            {"sha256": sha256, "size": size, "cached": int(fetched), "used_at": now,
             "scrubbed_at": now}
        )  # fmt: skip
        self._uses.pop(sha256, None)
        self._soon()

    def gone(self, sha256: str) -> None:
        """A file is not here any more."""
        self._changes.append({"sha256": sha256, "size": None})
        self._uses.pop(sha256, None)
        self._recent.pop(sha256, None)
        self._soon()

    def used(self, sha256: str) -> None:
        """A file was asked for just now."""
        self._uses[sha256] = self.now()
        if self._use_timer is None and not self._stopped:
            self._use_timer = self._clock.callLater(USE_SECONDS, self._write_uses)

    def is_recent(self, sha256: str, since: float) -> bool:
        """Whether a use since then is known that may not be written yet."""
        return max(self._uses.get(sha256, 0.0), self._recent.get(sha256, 0.0)) >= since

    async def flush(self) -> None:
        """Write all that was noted."""
        changes, self._changes = self._changes, []
        uses, self._uses = self._uses, {}
        self._recent = uses
        await self.database.write(lambda c: _write(c, changes, uses))

    async def stop(self) -> None:
        """Write what is left."""
        self._stopped = True
        for timer in (self._change_timer, self._use_timer):
            if timer is not None and timer.active():
                timer.cancel()
        if self._reconciling is not None:
            self._reconciling.cancel()
            await self._reconciling
        await self.flush()

    def reconcile(self, store: FileStore) -> None:
        """Put right, in the background, what the account and the disk say differently."""
        self._reconciling = Deferred.fromCoroutine(self._reconcile(store))
        self._reconciling.addErrback(self._failed)

    async def _reconcile(self, store: FileStore) -> None:
        for number in range(256):
            folder, now = f"{number:02x}", self.now()
            there = await store.threads.run(_files_in, store, folder)
            await self.database.write(partial(_put_right, folder=folder, there=there, now=now))

    def _failed(self, failure: Any) -> None:
        if not failure.check(CancelledError):
            self._log.failure("the account of files could not be written", failure)

    def _soon(self) -> None:
        if self._change_timer is None and not self._stopped:
            self._change_timer = self._clock.callLater(CHANGE_SECONDS, self._write_changes)

    def _write_changes(self) -> None:
        self._change_timer = None
        changes, self._changes = self._changes, []
        self._write(changes, {})

    def _write_uses(self) -> None:
        self._use_timer = None
        uses, self._uses = self._uses, {}
        self._recent = uses
        self._write([], uses)

    def _write(self, changes: list[dict[str, Any]], uses: dict[str, float]) -> None:
        work = self.database.write(lambda c: _write(c, changes, uses))
        Deferred.fromCoroutine(work).addErrback(self._failed)


def scrubbed(connection: Connection, sha256: str, at: float) -> None:
    """A file was re-hashed and is what its name says."""
    connection.execute(update(table).where(table.c.sha256 == sha256).values(scrubbed_at=at))


def longest_unscrubbed(connection: Connection, before: float, most: int) -> Sequence[Any]:
    """(sha256, size) of files that were last re-hashed before then, the longest ago first."""
    statement = select(table.c.sha256, table.c.size).where(table.c.scrubbed_at < before)
    return connection.execute(statement.order_by(table.c.scrubbed_at).limit(most)).all()


def oldest_scrub(connection: Connection) -> float | None:
    """Since when every file here has been re-hashed at least once; None while some never were."""
    return connection.execute(select(func.min(table.c.scrubbed_at))).scalar() or None


def _adding() -> Insert:
    # What was uploaded stays so, also if the same bytes are fetched later. One that was found
    # on the disk before its arrival was written here says nothing of that yet.
    added = insert(table)
    is_stranger = table.c.scrubbed_at == 0
    least = func.min(table.c.cached, added.excluded.cached)
    kept = {
        "cached": case((is_stranger, added.excluded.cached), else_=least),
        "used_at": added.excluded.used_at,
        "scrubbed_at": func.max(table.c.scrubbed_at, added.excluded.scrubbed_at),
    }
    return added.on_conflict_do_update(index_elements=["sha256"], set_=kept)


# Made once: making a statement takes longer than running it.
_ADDED: Final = _adding()
_GONE: Final = delete(table).where(table.c.sha256 == bindparam("name"))
_USED: Final = (
    update(table).where(table.c.sha256 == bindparam("name")).values(used_at=bindparam("at"))
)


def _write(
    connection: Connection, changes: Sequence[dict[str, Any]], uses: dict[str, float]
) -> None:
    for is_gone, group in groupby(changes, lambda change: change["size"] is None):
        if is_gone:
            connection.execute(_GONE, [{"name": change["sha256"]} for change in group])
        else:
            connection.execute(_ADDED, list(group))
    if uses:
        connection.execute(_USED, [{"name": name, "at": at} for name, at in uses.items()])


def _files_in(store: FileStore, folder: str) -> dict[str, tuple[int, float]]:
    try:
        with os.scandir(store.root / "sha256" / folder) as entries:
            found = [(entry.name, entry.stat()) for entry in entries if entry.is_file()]
    except FileNotFoundError:
        return {}
    return {name: (stat.st_size, stat.st_mtime) for name, stat in found}


def _put_right(
    connection: Connection, folder: str, there: dict[str, tuple[int, float]], now: float
) -> None:
    rows = connection.execute(
        select(table.c.sha256, table.c.used_at).where(
            table.c.sha256 >= folder, table.c.sha256 < folder + "g"
        )
    ).all()
    known = {row.sha256 for row in rows}
    for row in rows:
        if row.sha256 not in there and row.used_at < now:
            connection.execute(delete(table).where(table.c.sha256 == row.sha256))
    strangers = [
        {"sha256": name, "size": size, "cached": int(changed_at < now - STRANGER_SECONDS),
         "used_at": min(changed_at, now), "scrubbed_at": 0.0}
        for name, (size, changed_at) in there.items() if name not in known
    ]  # fmt: skip
    if strangers:
        connection.execute(insert(table).on_conflict_do_nothing(), strangers)
