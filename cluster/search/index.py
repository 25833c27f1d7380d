"""Keeps search.sqlite current behind the commits, and answers questions.

A commit only wakes the updater; it reads the log behind the store's own serial, in bounded
batches, in a thread. So no write waits for it, a crash costs nothing, and a store that is gone
is built again from the state, meanwhile answering with what is in it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Literal

from attrs import define, evolve
from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DatabaseError, OperationalError
from twisted.internet.defer import Deferred
from twisted.logger import Logger

from cluster.clock import Clock
from cluster.errors import NotFound
from cluster.log import changelog
from cluster.log.changes import Kind, decode
from cluster.names import IndexName, normalize
from cluster.search import documents, store, words
from cluster.search.store import Hit, Progress
from cluster.state import queries
from cluster.state.database import Database, writing
from cluster.state.position import Head, Position
from cluster.state.rows import Touched
from cluster.threads import Runner

MAX_HITS = 1_000
_BATCH = 2_000
_LOG_BYTES = 128 << 10
_LOG_ENTRIES = 500
# Many uploads in a row are one update, when they pause: it takes as much of the processor as
# following them does. And between two batches others get it.
QUIET_SECONDS: Final = 0.5
LONGEST_SECONDS: Final = 5.0
_BREATH_SECONDS = 0.01
_RETRY_SECONDS = 30.0
_START: documents.Key = ("", "")


class SearchOff(NotFound):
    """This node was started with ``--no-search``."""


@define(eq=False)
class SearchIndex:
    """The search of one node; `updater` should be a thread of its own."""

    _log = Logger()

    _state: Database
    _position: Position
    _path: Path
    _updater: Runner
    _readers: Runner
    _clock: Clock
    enabled: bool = True
    progress: Progress | None = None
    _engine: Engine | None = None
    _stopping: bool = False
    _idle: bool = False
    _changed_at: float = 0.0
    _goal: int = 0
    _waiter: Deferred[None] | None = None
    _ended: Deferred[None] | None = None

    @property
    def building(self) -> bool:
        """Whether what is found may be incomplete, because the store is being built."""
        return self.enabled and (self.progress is None or self.progress.cursor is not None)

    def document(self) -> dict[str, Any]:
        """What the status says of the search."""
        serial = self.progress.serial if self.progress else 0
        return {"enabled": self.enabled, "serial": serial, "building": self.building}

    def start(self) -> None:
        """Open the store in the background and follow the commits."""
        if self.enabled:
            self._goal = self._position.serial
            self._position.listen(self.changed)
            self._ended = Deferred.fromCoroutine(self._run())

    async def stop(self) -> None:
        """End after the batch that is being written, and close the store."""
        if self._ended is not None and not self._stopping:
            self._stopping = True
            self._wake()
            await self._ended

    def changed(self, head: Head, touched: Touched) -> None:
        """Wake the updater (a `Position` listener)."""
        self._changed_at = self._clock.seconds()
        if self._idle:
            self._wake()

    async def find(
        self,
        indexes: Sequence[IndexName],
        query: str | Mapping[str, Sequence[str]],
        *,
        operator: Literal["and", "or"] = "and",
        limit: int = 50,
        offset: int = 0,
    ) -> list[Hit]:
        """Projects of these indexes that match, best first; at most MAX_HITS.

        `query` is a text (`cluster.search.words`) or texts by field, joined by `operator`. The
        caller has resolved bases and read rights. Raises SearchOff; InvalidRequest for a field
        that does not exist.
        """
        if not self.enabled:
            raise SearchOff("search is off on this node (--no-search)")
        if isinstance(query, str):
            expression, exact = words.expression(query), query
        else:
            expression = words.in_fields(query, operator)
            exact = " ".join(query.get("name", ()))
        if expression is None or self._engine is None:
            return []
        exact = normalize(exact.encode("utf-8", "replace").decode())
        bound = (indexes, expression, exact, min(limit, MAX_HITS), max(offset, 0))
        return await self._readers.run(self._find, self._engine, *bound)

    def _find(self, engine: Engine, *bound: Any) -> list[Hit]:
        try:
            with engine.begin() as connection:
                return store.find(connection, *bound)
        except DatabaseError as error:
            # The store is being replaced, or FTS5 minds something: what is found is nothing.
            self._log.warn("a search failed: {error}", error=str(error))
            return []

    async def _run(self) -> None:
        while not self._stopping:
            try:
                more = await self._updater.run(self._step)
            except Exception as error:
                self._log.failure("updating the search index failed")
                await self._updater.run(self._close, _is_broken(error))
                await self._rest(_RETRY_SECONDS)
                continue
            if more:
                await self._rest(_BREATH_SECONDS)
            else:
                await self._news()
                await self._gather()
                self._goal = self._position.serial
        await self._updater.run(self._close, False)

    async def _news(self) -> None:
        if (self.progress.serial if self.progress else 0) >= self._position.serial:
            self._idle = True
            await self._rest(None)

    async def _gather(self) -> None:
        latest, seconds = self._clock.seconds() + LONGEST_SECONDS, QUIET_SECONDS
        while seconds > 0.0 and not self._stopping:
            await self._rest(seconds)
            seconds = min(self._changed_at + QUIET_SECONDS, latest) - self._clock.seconds()

    async def _rest(self, seconds: float | None) -> None:
        if self._stopping:
            return
        self._waiter = Deferred()
        timer = None if seconds is None else self._clock.callLater(seconds, self._wake)
        await self._waiter
        if timer is not None and timer.active():
            timer.cancel()

    def _wake(self) -> None:
        self._idle = False
        waiter, self._waiter = self._waiter, None
        if waiter is not None:
            waiter.callback(None)

    def _step(self) -> bool:
        """One bounded piece of work in the updater's thread; whether there may be more."""
        if self._engine is None or not self._path.exists():
            self._close(False)
            self._engine = store.open_store(self._path)
        with self._state.engine.begin() as source:
            progress = self._continued(source, self._engine)
            if progress is None:
                return False
            if progress.cursor is not None:
                return self._build(source, self._engine, progress)
            return self._catch_up(source, self._engine, progress)

    def _continued(self, source: Connection, engine: Engine) -> Progress | None:
        """Where the store is; a store of another log, of more of it than is here, or from before
        what is left of it, begins anew.

        None before the log's first entry.
        """
        epoch, size = queries.epoch(source), changelog.size(source)
        if epoch is None:
            return None
        with engine.begin() as target:
            known = store.progress(target)
        least = changelog.minimum(source)
        if known is None or known.log != epoch.log or not least <= known.serial <= size:
            # From here on the log tells what changes while the state is read.
            known = Progress(epoch.log, size, _START)
            with writing(engine) as target:
                store.clear(target)
                store.set_progress(target, known)
        self.progress = known
        return known

    def _build(self, source: Connection, engine: Engine, progress: Progress) -> bool:
        keys = documents.keys_after(source, progress.cursor or _START, _BATCH)
        after = evolve(progress, cursor=keys[-1] if keys else None)
        self._write(source, engine, keys, after)
        return True

    def _catch_up(self, source: Connection, engine: Engine, progress: Progress) -> bool:
        page = changelog.read_raw(source, progress.serial, _LOG_BYTES, _LOG_ENTRIES)
        keys: dict[documents.Key, None] = {}
        for raw in page:
            entry = decode(raw)
            if entry.kind is Kind.INDEX_REMOVED:
                self._drop(engine, entry.payload["index"])
            keys.update(dict.fromkeys(documents.touched(source, entry)))
        if page:
            after = evolve(progress, serial=progress.serial + len(page))
            self._write(source, engine, list(keys), after)
            # What came since the last pause is gathered with what comes next.
            return after.serial < self._goal
        return False

    def _write(
        self, source: Connection, engine: Engine, keys: list[documents.Key], after: Progress
    ) -> None:
        for at in range(0, len(keys), _BATCH):
            found = documents.documents(source, keys[at : at + _BATCH])
            with writing(engine) as target:
                store.write(target, found)
        with writing(engine) as target:
            store.set_progress(target, after)
        self.progress = after

    def _drop(self, engine: Engine, index: str) -> None:
        more = True
        while more:
            with writing(engine) as target:
                more = store.drop_some(target, index, _BATCH)

    def _close(self, remove: bool) -> None:
        engine, self._engine = self._engine, None
        if engine is not None:
            engine.dispose()
        if remove:
            store.remove_store(self._path)


def _is_broken(error: Exception) -> bool:
    """Whether the file itself is to blame, and not a full disk or a lock."""
    return isinstance(error, DatabaseError) and not isinstance(error, OperationalError)
