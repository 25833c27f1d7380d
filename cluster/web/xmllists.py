"""What XML-RPC tells tools that copy an index: its names, and what happened since a serial.

Both can be long. Names go to a file, as the simple API's list does, so that 900,000 of them are
streamed and never held; the log is read in bounded batches, so that no thread is kept for long.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import orjson
from attrs import define, field, frozen
from sqlalchemy import Connection

from cluster.log import changelog
from cluster.log.changes import Entry, Kind, decode
from cluster.model import Index
from cluster.names import IndexName, version_from_filename
from cluster.search.documents import published
from cluster.singleflight import SingleFlight
from cluster.state import queries
from cluster.state.database import Database
from cluster.web.legacy import python_version
from cluster.web.xmlcalls import names_document, serials_document

MAX_ROWS: Final = 50_000
"""Rows of one answer; who gets so many asks again from the last one's serial (standards X1)."""

_SCAN_ENTRIES = 2_000
_SCAN_BYTES = 4 << 20

Row = tuple[str, str | None, int, str, int]
"""Name, version, seconds since 1970, action, serial."""

_ACTIONS: Final = {
    Kind.PROJECT_REGISTERED: "create", Kind.PROJECT_REMOVED: "remove project",
    Kind.PROJECT_STATUS: "change status", Kind.RELEASE_SET: "new release",
    Kind.RELEASE_REMOVED: "remove release", Kind.DOCS_SET: "docs update",
    Kind.MIRROR_PROJECT: "update",
}  # fmt: skip


@frozen
class ListDocument:
    """A list on disk, and the serial of the last change to what it lists."""

    path: Path
    size: int
    serial: int


Key = tuple[bool, tuple[IndexName, ...]]


@define
class PackageLists:
    """Writes the documents of `list_packages` and `list_packages_with_serial` to a folder."""

    _database: Database
    _folder: Path
    _built: dict[Key, ListDocument] = field(factory=dict)
    _building: SingleFlight[Key, ListDocument] = field(factory=SingleFlight)

    async def get(self, chain: Sequence[Index], *, with_serials: bool) -> ListDocument:
        """The document for these indexes, written anew if their lists changed."""
        key = with_serials, tuple(index.name for index in chain)
        serial = await self._database.read(lambda c: queries.list_serial(c, list(chain)))
        built = self._built.get(key)
        if built is not None and built.serial == serial and built.path.exists():
            return built
        return await self._building.run(key, lambda: self._build(key, list(chain)))

    async def _build(self, key: Key, chain: list[Index]) -> ListDocument:
        built = await self._database.read(lambda c: self._write(c, key, chain))
        before = self._built.get(key)
        self._built[key] = built
        if before is not None and before.path != built.path:
            await self._database.readers.run(before.path.unlink, True)
        return built

    def _write(self, connection: Connection, key: Key, chain: list[Index]) -> ListDocument:
        with_serials, names = key
        serial = queries.list_serial(connection, chain)
        stem = hashlib.sha256(orjson.dumps([with_serials, names])).hexdigest()[:16]
        self._folder.mkdir(parents=True, exist_ok=True)
        # The serial is part of the name: an answer that has begun keeps its own file.
        path = self._folder / f"xml-{stem}-{serial}"
        rows = queries.listed(connection, list(names))
        document = (
            serials_document((display, at) for _, display, at in rows)
            if with_serials
            else names_document(display for _, display, _ in rows)
        )
        with path.open("wb") as file:
            file.writelines(document)
        return ListDocument(path, path.stat().st_size, serial)


async def changes_since(database: Database, chain: Sequence[Index], serial: int) -> list[Row]:
    """What happened on these indexes behind `serial`, oldest first, at most MAX_ROWS rows.

    A change with several rows is never cut: who goes on from the last row's serial misses none.
    """
    names = {index.name for index in chain}
    rows: list[Row] = []
    at = max(serial, 0)
    while len(rows) < MAX_ROWS:
        found, at, more = await database.read(lambda c, at=at: _scan(c, names, at))  # type: ignore[misc]
        rows += found
        if not more:
            break
    return _bounded(rows)


def _bounded(rows: list[Row]) -> list[Row]:
    if len(rows) <= MAX_ROWS:
        return rows
    last = rows[MAX_ROWS][4]
    kept = [row for row in rows[:MAX_ROWS] if row[4] < last]
    return kept or [row for row in rows if row[4] == last]


def _scan(connection: Connection, names: set[IndexName], after: int) -> tuple[list[Row], int, bool]:
    least = changelog.minimum(connection)
    if after < least:
        return _from_state(connection, names, after, least), least, True
    page = changelog.read_raw(connection, after, _SCAN_BYTES, _SCAN_ENTRIES)
    # Most entries of a large log are of other indexes: see that without decoding them.
    marks = [b'"index":' + orjson.dumps(name) for name in names]
    rows = [
        row
        for raw in page
        if any(mark in raw for mark in marks)
        for row in _rows(connection, decode(raw), names)
    ]
    return rows, after + len(page), bool(page)


def _from_state(connection: Connection, names: set[IndexName], after: int, least: int) -> list[Row]:
    """One row for each project that changed last where the log is gone: who copies an index
    misses none, but for which files changed.
    """
    changed = queries.projects_changed(connection, sorted(names), after, least)
    return [(name, None, 0, "update", serial) for name, serial in changed]


def _rows(connection: Connection, entry: Entry, names: set[IndexName]) -> Iterator[Row]:
    payload = entry.payload
    if payload.get("index") not in names or ("stage" in payload and "project" in payload):
        return  # a staged change happens when its stage is published
    moment = int(datetime.fromisoformat(entry.time).timestamp())
    for name, version, action in _actions(connection, entry):
        yield name, version, moment, action, entry.serial


def _actions(connection: Connection, entry: Entry) -> Iterator[tuple[str, str | None, str]]:
    payload: Any = entry.payload
    name = payload.get("name") or payload.get("project")
    if entry.kind is Kind.MIRROR_LISTING:
        yield from ((n, None, "create") for n in payload.get("added", ()))
        yield from ((n, None, "remove project") for n in payload.get("removed", ()))
    elif entry.kind is Kind.STAGE_PUBLISHED:
        # More than were published, when some changed again later: to a mirror that is harmless.
        projects = published(connection, payload["index"], entry.serial)
        yield from ((project, None, "update") for project in projects)
    elif entry.kind is Kind.FILE_ADDED:
        file = payload["file"]
        added = f"add {python_version(file['filename'])} file {file['filename']}"
        yield name, file.get("version"), added
    elif entry.kind is Kind.FILE_REMOVED:
        filename = payload["filename"]
        yield name, version_from_filename(filename, name), f"remove file {filename}"
    elif entry.kind is Kind.FILE_YANKED:
        action = "unyank release" if payload["yanked"] is None else "yank release"
        versions = {version_from_filename(f, name) for f in payload["filenames"]}
        yield from ((name, version, action) for version in sorted(versions, key=str))
    elif entry.kind in _ACTIONS:
        yield name, payload.get("version"), _ACTIONS[entry.kind]
