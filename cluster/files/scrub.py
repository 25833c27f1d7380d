"""Re-hashes the files of the store, slowly, over and over: level 4 of `pymirror verify`.

A file that is not what its name says is moved into the folder ``quarantine`` beside the store, so
it is never served again, and fetched anew from whoever has it.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final

from attrs import define, field
from sqlalchemy import Column, Connection, Float, Integer, MetaData, Table, Text, delete, select
from sqlalchemy.dialects.sqlite import insert
from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger

from cluster.clock import Clock
from cluster.errors import PymirrorError
from cluster.files import ledger
from cluster.files.ledger import FileLedger
from cluster.files.store import FileStore
from cluster.upstream.health import iso

metadata = MetaData()

table = Table(
    "damaged_files",
    metadata,
    Column("sha256", Text, primary_key=True),
    Column("size", Integer, nullable=False),
    Column("found_at", Float, nullable=False),
    # When a good copy was here again; null until then.
    Column("mended_at", Float),
)

ROUND_SECONDS: Final = 7 * 86_400.0
"""A file is re-hashed when that was last done longer ago than this."""
QUARANTINE: Final = "quarantine"
HINT: Final = (
    "no other node and no upstream could give these files again yet: start the replicas that are "
    "down, or put good copies back (upload them again, or copy each into the store); what was "
    "found damaged is in the folder files/quarantine. Then see to this machine's disk"
)
_IDLE_SECONDS = 60.0
_RETRY_SECONDS = 30.0
_PIECE_BYTES = 1 << 20
_BATCH = 100
_MOST_SHOWN = 50

Refetch = Callable[[str, int], Awaitable[None]]
"""Get a file (sha256, size) from anybody who has it; raises PymirrorError."""


@define(eq=False)
class Scrub:
    """One file after the other, at `rate_bytes` a second (0: never)."""

    _log = Logger()

    rate_bytes: int
    _store: FileStore
    _ledger: FileLedger
    _clock: Clock
    refetch: Refetch | None = None
    on_damage: Callable[[str], None] = lambda sha256: None
    checked: int = 0
    checked_bytes: int = 0
    damaged: int = 0
    mended: int = 0
    unmended: list[dict[str, Any]] = field(factory=list)
    complete_since: float | None = None
    """Since when each file here has been re-hashed at least once; None before the first look."""
    _running: Deferred[None] | None = None
    _retry_at: float = 0.0
    _stopped: bool = False

    def start(self) -> None:
        """Begin, if there is a rate."""
        if self.rate_bytes > 0:
            self._running = Deferred.fromCoroutine(self._run())
            self._running.addErrback(self._ended)

    async def stop(self) -> None:
        """End, in the middle of a file if need be."""
        self._stopped = True
        if self._running is not None:
            self._running.cancel()
            await self._running

    def _ended(self, failure: Any) -> None:
        if not failure.check(CancelledError):
            self._log.failure("the scrub ended", failure)

    def document(self) -> dict[str, Any]:
        """The `scrub` part of the status."""
        return {
            "rate_bytes": self.rate_bytes,
            "checked": self.checked,
            "checked_bytes": self.checked_bytes,
            "complete_since": iso(self.complete_since),
            "damaged": self.damaged,
            "mended": self.mended,
            "unmended": [{**row, "since": iso(row["since"])} for row in self.unmended],
            "hint": HINT if self.unmended else None,
        }

    async def _run(self) -> None:
        while not self._stopped:
            try:
                seconds = await self._step()
            except CancelledError:
                raise
            except Exception:  # a full disk, or a locked account: it must not end for that
                self._log.failure("the scrub cannot go on now; trying again")
                seconds = _IDLE_SECONDS
            await self._sleep(seconds)

    async def _step(self) -> float:
        """Look at the files that are due; how long to wait before the next look."""
        now = self._ledger.now()
        await self._mend(now)
        due = await self._ledger.database.read(
            lambda c: ledger.longest_unscrubbed(c, now - ROUND_SECONDS, _BATCH)
        )
        for sha256, size in due:
            if self._stopped:
                return 0.0
            await self.check(sha256, size)
        self.complete_since = await self._ledger.database.read(ledger.oldest_scrub)
        self.unmended = await self._ledger.database.read(_unmended)
        return 0.0 if due else _IDLE_SECONDS

    async def check(self, sha256: str, size: int) -> bool:
        """Re-hash one file at the rate; False when it was damaged, and is in quarantine now."""
        digest, done = hashlib.sha256(), 0
        try:
            fd = await self._store.threads.run(
                os.open, self._store.path(sha256), os.O_RDONLY | os.O_CLOEXEC
            )
        except FileNotFoundError:
            self._store.lost(sha256)
            await self._ledger.flush()
            return True
        try:
            while data := await self._store.threads.run(_read, fd, digest):
                done += data
                if self.rate_bytes:
                    await self._sleep(data / self.rate_bytes)
        except OSError:
            done = -1  # a sector that cannot be read is damage like any other
        finally:
            await self._store.threads.run(os.close, fd)
        self.checked += 1
        self.checked_bytes += max(done, 0)
        now = self._ledger.now()
        if done >= 0 and digest.hexdigest() == sha256:
            await self._ledger.database.write(lambda c: ledger.scrubbed(c, sha256, now))
            return True
        await self._quarantine(sha256, size)
        return False

    async def _quarantine(self, sha256: str, size: int) -> None:
        self._log.error("{sha256} is damaged on disk: it goes into quarantine", sha256=sha256)
        # The same bytes may be there already, from an earlier time: the newest are kept.
        if await self._store.take_away(sha256, self._store.root / QUARANTINE) is None:
            return
        # Before the next look at the account, which would find it due again.
        await self._ledger.flush()
        self.damaged += 1
        self.on_damage(sha256)
        now = self._ledger.now()
        await self._ledger.database.write(lambda c: _note(c, sha256, size, now))
        await self._mend_one(sha256, size)

    async def _mend(self, now: float) -> None:
        if self._clock.seconds() < self._retry_at:
            return
        self._retry_at = self._clock.seconds() + _RETRY_SECONDS
        for row in await self._ledger.database.read(_unmended):
            await self._mend_one(row["sha256"], row["bytes"])

    async def _mend_one(self, sha256: str, size: int) -> None:
        try:
            if await self._store.size_of(sha256) is None:
                if self.refetch is None:
                    return
                await self.refetch(sha256, size)
        except PymirrorError as error:
            self._log.warn("{sha256} cannot be mended: {error}", sha256=sha256, error=str(error))
            return
        self.mended += 1
        now = self._ledger.now()
        await self._ledger.database.write(lambda c: _mended(c, sha256, now))

    async def _sleep(self, seconds: float) -> None:
        waiter: Deferred[None] = Deferred()
        timer = self._clock.callLater(seconds, waiter.callback, None)
        try:
            await waiter
        finally:
            if timer.active():
                timer.cancel()


async def status(ledger_: FileLedger) -> dict[str, Any]:
    """What `pymirror verify` reads: ``damaged`` (not mended yet) and ``complete_since``."""
    return {
        "damaged": await ledger_.database.read(_unmended),
        "complete_since": await ledger_.database.read(ledger.oldest_scrub),
    }


def _read(fd: int, digest: Any) -> int:
    data = os.read(fd, _PIECE_BYTES)
    digest.update(data)
    return len(data)


def _note(connection: Connection, sha256: str, size: int, now: float) -> None:
    found = insert(table).values(sha256=sha256, size=size, found_at=now, mended_at=None)
    again = {"found_at": now, "mended_at": None}
    connection.execute(found.on_conflict_do_update(index_elements=["sha256"], set_=again))


def _mended(connection: Connection, sha256: str, now: float) -> None:
    connection.execute(delete(table).where(table.c.mended_at < now - ROUND_SECONDS))
    connection.execute(table.update().where(table.c.sha256 == sha256).values(mended_at=now))


def _unmended(connection: Connection) -> list[dict[str, Any]]:
    statement = select(table).where(table.c.mended_at.is_(None)).order_by(table.c.found_at)
    return [
        {"sha256": row.sha256, "bytes": row.size, "since": row.found_at}
        for row in connection.execute(statement.limit(_MOST_SHOWN))
    ]


def quarantined(store: FileStore) -> list[Path]:
    """The files in quarantine; blocking."""
    folder = store.root / QUARANTINE
    return sorted(folder.iterdir()) if folder.exists() else []
