"""The project list, rendered to disk: 700,000 names are streamed, never held.

A rendered list stays in use until it is rendered again; that happens when it is asked for after
a change. A list that takes long to render is served as it is meanwhile.
"""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

from attrs import define, field, frozen
from sqlalchemy import Connection
from twisted.internet.defer import Deferred
from twisted.logger import Logger

from cluster.clock import Clock
from cluster.names import IndexName
from cluster.simple.negotiate import Format
from cluster.simple.pages import ListEntry, render_list_head, render_list_items, render_list_tail
from cluster.singleflight import SingleFlight
from cluster.state import queries
from cluster.state.database import Database
from cluster.state.position import Head
from cluster.state.rows import Touched

_BATCH = 2_000
# Rendering that takes longer than this happens behind the answers.
_PATIENCE_SECONDS = 0.25
_GZIP_LEVEL = 5


@frozen
class ListFile:
    """A file on disk, its size in bytes and its strong ETag."""

    path: Path
    size: int
    etag: str


@frozen
class RenderedList:
    """A list in one format, plain and gzipped; `read_at` is the serial it was read at."""

    serial: int
    read_at: int
    plain: ListFile
    gzipped: ListFile
    seconds: float


Visible = tuple[IndexName, ...] | None
"""The indexes that a reader may see; None when everybody may see all."""

Key = tuple[IndexName, Format, Visible]


@define
class ListPages:
    """Renders lists on demand into `folder`, one at a time for each index and format."""

    _log = Logger()

    _database: Database
    _clock: Clock
    _folder: Path
    _position: Callable[[], int]
    _changed_at: int = 0
    _built: dict[Key, RenderedList] = field(factory=dict)
    _building: SingleFlight[Key, RenderedList] = field(factory=SingleFlight)

    def changed(self, head: Head, touched: Touched) -> None:
        """Note that lists may have changed (a `Position` listener)."""
        if touched.indexes or touched.lists:
            self._changed_at = head.serial

    async def get(self, index: IndexName, format: Format, visible: Visible = None) -> RenderedList:
        """A rendered list, current unless rendering it takes long; raises NotFound."""
        key = (index, format, visible)
        built = self._built.get(key)
        if built is not None and built.read_at >= self._changed_at:
            return built
        if built is not None and built.seconds > _PATIENCE_SECONDS:
            building = Deferred.fromCoroutine(self._build(key))
            building.addErrback(lambda f: self._log.failure("rendering a list failed", f))
            return built
        return await self._build(key)

    async def _build(self, key: Key) -> RenderedList:
        return await self._building.run(key, lambda: self._make(key))

    async def _make(self, key: Key) -> RenderedList:
        read_at, start = self._position(), self._clock.seconds()
        plain, gzipped, serial = await self._database.read(lambda c: self._render(c, *key))
        took = self._clock.seconds() - start
        self._built[key] = RenderedList(serial, read_at, plain, gzipped, took)
        return self._built[key]

    def _render(
        self, connection: Connection, name: IndexName, format: Format, visible: Visible
    ) -> tuple[ListFile, ListFile, int]:
        start = queries.index_or_404(connection, name)
        chain = [
            index
            for index in queries.chain(connection, start)
            if visible is None or index.name in visible
        ]
        serial = queries.list_serial(connection, chain)
        rows = queries.listed(connection, [index.name for index in chain])
        key = (name, format, visible)
        of = hashlib.sha256(f"{name} {visible}".encode()).hexdigest()[:16]
        stem = f"{of}-{format.name.lower()}"
        self._folder.mkdir(parents=True, exist_ok=True)
        fresh = self._folder / f"{stem}.new"
        digest = _write(_chunks(rows, format, serial), fresh)
        # Named by content: an answer never has the size of one list and the bytes of another.
        plain_path = self._folder / f"{stem}-{digest}"
        gzip_path = plain_path.with_suffix(".gz")
        fresh.replace(plain_path)
        fresh.with_suffix(".newgz").replace(gzip_path)
        self._remove_older(key, stem, plain_path)
        return (
            ListFile(plain_path, plain_path.stat().st_size, f'"{digest}"'),
            ListFile(gzip_path, gzip_path.stat().st_size, f'"{digest}-gzip"'),
            serial,
        )

    def _remove_older(self, key: Key, stem: str, new: Path) -> None:
        # An answer that began with the list before this one may not have opened it yet.
        before = self._built.get(key)
        kept = {new.stem} | ({before.plain.path.stem} if before else set())
        for path in self._folder.glob(f"{stem}-*"):
            if path.stem not in kept:
                path.unlink()


def _chunks(rows: Iterator[tuple[str, str, int]], format: Format, serial: int) -> Iterator[bytes]:
    yield render_list_head(format, serial)
    first = True
    while batch := [ListEntry(display, serial) for _, display, serial in islice(rows, _BATCH)]:
        yield render_list_items(format, batch, first)
        first = False
    yield render_list_tail(format)


def _write(chunks: Iterator[bytes], fresh: Path) -> str:
    digest = hashlib.sha256()
    # The time stamp and name in gzip's header would give equal lists unequal bytes.
    with (
        fresh.open("wb") as plain,
        fresh.with_suffix(".newgz").open("wb") as raw,
        gzip.GzipFile("", "wb", _GZIP_LEVEL, raw, mtime=0) as packed,
    ):
        for chunk in chunks:
            digest.update(chunk)
            plain.write(chunk)
            packed.write(chunk)
    return digest.hexdigest()[:32]
