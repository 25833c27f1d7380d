"""What the state says of the files that hosted indexes hold, all or those since a serial, and how
it is noted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Final

import orjson
from attrs import frozen
from sqlalchemy import Connection, Table, select, text

from cluster.errors import LogError
from cluster.log import changelog
from cluster.log.driver import driver
from cluster.state import schema

BATCH: Final = 2_000


@frozen
class Named:
    """A file that an index holds, as its state says."""

    index: str
    sha256: str
    filename: str
    size: int | None
    serial: int


@frozen
class Source:
    """A table that names files, and its key."""

    table: Table
    names: tuple[str, str, str]


SOURCES = (
    Source(schema.files, ("index_name", "project", "filename")),
    Source(schema.docs, ("index_name", "project", "version")),
    Source(schema.toxresults, ("index_name", "project", "result")),
)


# Straight to the driver: a replica that catches up asks this for each project of each page.
_TYPE: Final = "SELECT type FROM indexes WHERE name = ?"


def _since(source: Source) -> tuple[str, str]:
    """The rows of an index, and those of a project on it, that changed behind a serial."""
    name = "filename" if source.table is not schema.toxresults else "result"
    whole = (
        f"SELECT {name}, body, serial FROM {source.table.name}"  # noqa: S608 (our schema)
        " WHERE index_name = ? AND serial > ?"
    )
    return whole, f"{whole} AND project = ?"


_SINCE: Final = tuple(_since(source) for source in SOURCES)


def page(
    connection: Connection, source: Source, after: tuple[str, ...]
) -> tuple[list[Named], tuple[str, ...] | None]:
    """The files of the next rows of hosted indexes behind a key, and the last key of these."""
    of, keys = source.table, [source.table.c[name] for name in source.names]
    statement = select(of).join(schema.indexes, schema.indexes.c.name == of.c.index_name)
    statement = statement.where(schema.indexes.c.type == "stage")
    behind = text(f"({', '.join(f'{of.name}.{name}' for name in source.names)}) > (:a, :b, :c)")
    rows = connection.execute(
        statement.where(behind).order_by(*keys).limit(BATCH),
        dict(zip("abc", after, strict=True)),
    ).all()
    last = tuple(str(getattr(rows[-1], name)) for name in source.names) if rows else None
    name = "filename" if of is not schema.toxresults else "result"
    found = (
        named
        for row in rows
        for named in _named(of, row.index_name, getattr(row, name), row.body, row.serial)
    )
    return list(found), last


def _named(of: Table, index: str, filename: str, raw: bytes, serial: int) -> Iterator[Named]:
    body = orjson.loads(raw)
    if of is not schema.files:
        yield Named(index, body["sha256"], filename, body["size"], serial)
        return
    sha256 = body.get("hashes", {}).get("sha256")
    if sha256 is not None:
        yield Named(index, sha256, filename, body.get("size"), serial)
    for key in ("core_metadata", "attestations"):
        if body.get(key):
            name = f"{filename} ({key.replace('_', ' ')})"
            yield Named(index, body[key], name, None, serial)


def named_since(connection: Connection, since: int, until: int) -> list[Named] | None:
    """What the entries behind `since` name; None when they are not all here any more."""
    seen, at = set[tuple[str, str | None]](), since
    while at < until:
        try:
            entries = changelog.read_raw(connection, at, 1 << 20, 1_000, until)
        except LogError:
            return None
        if not entries:
            return None
        seen.update(_places(entries))
        at += len(entries)
    return [named for place in seen for named in _at(connection, since, *place)]


def _places(entries: Iterable[bytes]) -> Iterator[tuple[str, str | None]]:
    for raw in entries:
        if b'"kind":"mirror.' not in raw:
            entry = orjson.loads(raw)
            if "index" in entry:
                yield entry["index"], entry.get("project")


def _at(connection: Connection, since: int, index: str, project: str | None) -> Iterator[Named]:
    database = driver(connection)
    if database.execute(_TYPE, (index,)).fetchone() != ("stage",):
        return
    for source, (of_index, of_project) in zip(SOURCES, _SINCE, strict=True):
        sql, where = (of_index, ()) if project is None else (of_project, (project,))
        for filename, body, serial in database.execute(sql, (index, since, *where)):
            yield from _named(source.table, index, filename, body, serial)


Row = tuple[str, str, int | None, int, int, int]
"""Of a file: sha256, name, size, serial, whether it is kept, and the generation of the look."""

# Straight to the driver: this is done for every file that is ever uploaded.
_UPSERT: Final = """INSERT INTO hosted_files
(sha256, filename, size, serial, kept, here, tries, retry_at, generation)
VALUES (?, ?, ?, ?, ?, ?, 0, 0.0, ?) ON CONFLICT (sha256) DO UPDATE SET
serial = min(serial, excluded.serial),
kept = max(excluded.kept, CASE WHEN generation = excluded.generation THEN kept ELSE 0 END),
here = excluded.here, generation = excluded.generation"""


def upsert(connection: Connection, rows: list[Row], is_here: Callable[[str], bool]) -> None:
    """Note files, and whether they are here, in the table of `cluster.files.hosted`."""
    looked = [(*row[:5], is_here(row[0]), row[5]) for row in rows]
    driver(connection).executemany(_UPSERT, looked)
