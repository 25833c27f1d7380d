"""Reads the log behind its own position and keeps a lane for each target of each index.

Nobody waits for it: a commit only wakes it, and reading, queueing and telling happen later. So
an upload is as fast with a dead receiver as with none.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any, Final

from attrs import define, field, frozen
from sqlalchemy import Connection
from twisted.internet.defer import CancelledError, Deferred, DeferredSemaphore
from twisted.logger import Logger

from cluster.clock import Clock, Delayed
from cluster.errors import LogError
from cluster.log import changelog
from cluster.log.changes import Entry, Kind, decode
from cluster.model import HostedIndex
from cluster.state import queries
from cluster.state.database import Database
from cluster.state.position import Head, Position
from cluster.state.rows import Touched
from primary.triggers import outbox, tables
from primary.triggers.events import TOLD, Target, event_of, urls_of
from primary.triggers.lane import Bell, Lane, cancelled
from primary.triggers.sender import Sender
from primary.triggers.tables import Item, Key, Setting, State

AT_ONCE: Final = 16
_PAGE_BYTES: Final = 1 << 20
_PAGE_ENTRIES: Final = 1_000
_BROKEN_SECONDS: Final = 10.0
_NOBODY_SECONDS: Final = 1.0
_OF_INTEREST: Final = frozenset({
    Kind.INDEX_SET, Kind.INDEX_REMOVED, Kind.FILE_ADDED, Kind.DOCS_SET, Kind.STAGE_PUBLISHED,
    Kind.STAGE_DROPPED,
})  # fmt: skip
_MARKS: Final = tuple(f'"kind":"{kind}"'.encode() for kind in sorted(_OF_INTEREST))


@frozen
class _Page:
    """What the log has behind a position: the entries that may matter, up to a serial."""

    entries: list[Entry]
    upto: int


def _read(connection: Connection, after: int) -> _Page:
    raw = changelog.read_raw(connection, after, _PAGE_BYTES, _PAGE_ENTRIES)
    # Most entries are of mirrors. These are canonical JSON: the bytes tell without decoding.
    if not raw:
        raise LogError("the log ends before its head")
    found = [decode(one) for one in raw if any(mark in one for mark in _MARKS)]
    # What users write into options may look like a mark.
    return _Page([entry for entry in found if entry.kind in _OF_INTEREST], after + len(raw))


def _settings(connection: Connection) -> tuple[int, int, dict[Key, Setting]]:
    """Where the log here begins, its head, and the targets that all indexes have at it."""
    settings = {}
    for name in queries.index_names(connection):
        index = queries.index(connection, name)
        if isinstance(index, HostedIndex):
            for target, url in urls_of(index.options).items():
                settings[Key(name, target)] = Setting(url, getattr(index, "secrets", None))
    return changelog.minimum(connection), changelog.size(connection), settings


@define(eq=False)
class Triggers:
    """Tells the targets of indexes what was uploaded to them: at least once, in order for each.

    A node without positions (a first start, a lost local.sqlite) begins at the log's head.
    """

    _log = Logger()

    _database: Database
    _local: Database
    _position: Position
    _sender: Sender
    _clock: Clock
    _now: Callable[[], float]
    _chance: random.Random = field(factory=random.Random)
    _lanes: dict[Key, Lane] = field(factory=dict)
    _bell: Bell = field(init=False)
    _at_once: DeferredSemaphore = field(factory=lambda: DeferredSemaphore(AT_ONCE))
    _seen: int | None = None
    _stored: int = 0
    _running: Deferred[None] | None = None
    _stopped: bool = False
    _timer: Delayed | None = None

    def __attrs_post_init__(self) -> None:
        self._bell = Bell(self._clock)

    def start(self) -> None:
        """Begin to read the log and to tell; returns at once."""
        self._position.listen(self._committed)
        self._running = Deferred.fromCoroutine(self._run())
        self._running.addErrback(cancelled)

    async def stop(self) -> None:
        """Break off what is under way; it is queued still, and told after the next start."""
        self._stopped = True
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        if self._running is not None and not self._running.called:
            self._running.cancel()
            await self._running
        for lane in self._lanes.values():
            await lane.stop()

    def document(self) -> list[dict[str, Any]]:
        """Every target and how it does: the `triggers` part of the status document."""
        lanes = sorted(self._lanes.items(), key=lambda pair: (pair[0].index, pair[0].target))
        return [lane.document() for _, lane in lanes]

    async def needed(self) -> int | None:
        """The serial up to which no entry is needed any more, also after a restart."""
        seen = self._seen

        def moved(connection: Connection) -> int | None:
            # Entries without anything to tell are noted seldom; they must not be kept for that.
            if seen is not None and (outbox.position(connection) or 0) < seen:
                outbox.move(connection, seen)
            return outbox.needed(connection)

        return await self._local.write(moved)

    def _committed(self, head: Head, touched: Touched) -> None:
        if self._lanes or touched.indexes:
            self._wake()
        elif self._timer is None and not self._stopped:
            # Without any target there is nobody to tell, only stages to remember.
            self._timer = self._clock.callLater(_NOBODY_SECONDS, self._wake)

    def _wake(self) -> None:
        timer, self._timer = self._timer, None
        if timer is not None and timer.active():
            timer.cancel()
        self._bell.ring()

    def stopping(self) -> bool:
        """Whether it was told to end."""
        return self._stopped

    async def _run(self) -> None:
        while not self.stopping():
            try:
                if self._seen is None:
                    self._seen = await self._open()
                while self._seen < self._position.serial:
                    self._seen = await self._look(self._seen)
                await self._bell.wait()
            except CancelledError:
                raise
            except Exception:
                if self.stopping():
                    return
                self._log.failure("the log cannot be read for triggers; trying again")
                await self._bell.wait(_BROKEN_SECONDS)

    async def _open(self) -> int:
        least, head, settings = await self._database.read(_settings)

        def begin(connection: Connection) -> tuple[int, dict[Key, State | None]]:
            seen = outbox.position(connection)
            if seen is None or not least <= seen <= head:
                outbox.begin(connection, head, settings)
                seen = head
            return seen, {k: tables.state(connection, k) for k in tables.keys(connection)}

        seen, states = await self._local.write(begin)
        self._stored = seen
        self._show(states)
        return seen

    async def _look(self, after: int) -> int:
        """Queue what the next page of the log says; the serial up to which that was."""
        page = await self._database.read(lambda c: _read(c, after))
        now = self._now()
        if any(self._matters(entry) for entry in page.entries):
            states = await self._local.write(lambda c: outbox.take(c, page.entries, page.upto, now))
            self._stored = page.upto
            self._show(states)
        elif page.upto - self._stored >= _PAGE_ENTRIES:
            # What has nothing to tell need not all be read again after a restart.
            await self._local.write(lambda c: outbox.move(c, page.upto))
            self._stored = page.upto
        return page.upto

    def _matters(self, entry: Entry) -> bool:
        # Most uploads are to indexes without targets: they cost nothing more than being read.
        if entry.kind not in TOLD[Target.WEBHOOK] or "stage" in entry.payload:
            return True
        return any(Key(entry.payload["index"], target) in self._lanes for target in Target)

    def _show(self, states: dict[Key, State | None]) -> None:
        for key, state in states.items():
            lane = self._lanes.get(key)
            if state is None and lane is not None:
                del self._lanes[key]
                Deferred.fromCoroutine(lane.stop())
            elif state is not None and lane is not None:
                lane.changed(state)
            elif state is not None:
                self._lanes[key] = made = Lane(
                    key, state, self._local, self._deliver, self._at_once, self._clock,
                    self._now, self._chance,
                )  # fmt: skip
                made.start()

    async def _deliver(self, key: Key, setting: Setting, item: Item) -> None:
        source, visible = await self._database.read(
            lambda c: (_entry(c, item.source), _entry(c, item.serial))
        )
        event = event_of(source, visible, item.number, self._sender.base_url())
        await self._sender.send(key.target, setting, event)


def _entry(connection: Connection, serial: int) -> Entry:
    [raw] = changelog.read_raw(connection, serial - 1, 1, 1, serial)
    return decode(raw)
