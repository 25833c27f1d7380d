"""Rows of the index state: what the functions of the fold have in common."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import lru_cache
from hashlib import sha256
from typing import Any

import orjson
from attrs import define, field
from sqlalchemy import Connection, Table, delete, select, update
from sqlalchemy.dialects import sqlite
from sqlalchemy.dialects.sqlite import insert

from cluster.log.changes import Entry
from cluster.log.driver import driver
from cluster.state import schema


@define
class Touched:
    """What entries changed: readers that cached something look here.

    `projects` are normalized names, on any index; `indexes` says that users, indexes or their
    options changed, which can change any page; `lists` are indexes whose project list changed;
    `removed` are indexes that were removed, also if they were made again.
    """

    projects: set[str] = field(factory=set)
    lists: set[str] = field(factory=set)
    removed: set[str] = field(factory=set)
    indexes: bool = False


def canonical(value: Any) -> bytes:
    """JSON with sorted keys: how values are kept in columns, equal on every node."""
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)


def url_link(url: str) -> str:
    """The 16 hex digits that stand in the link of a file known only by its URL."""
    return sha256(url.encode()).hexdigest()[:16]


def content_link(digest: str) -> str:
    """The 16 hex digits that stand in the link of a file whose sha256 is known."""
    return digest[:16]


def upsert(
    connection: Connection,
    table: Table,
    rows: list[dict[str, Any]],
    changed: tuple[str, ...] | None = None,
) -> None:
    """Insert rows; of those that are there, set the columns `changed` (None: all)."""
    if rows:
        # Straight to the driver: a fresh replica does this a million times, and SQLAlchemy's
        # own handling of each row costs more than SQLite's.
        sql = _upsert_sql(table, tuple(rows[0]), changed)
        driver(connection).executemany(sql, [tuple(row.values()) for row in rows])


@lru_cache(maxsize=64)
def _upsert_sql(table: Table, columns: tuple[str, ...], changed: tuple[str, ...] | None) -> str:
    statement = insert(table)
    keys = [column.name for column in table.primary_key]
    wanted = [name for name in columns if name not in keys] if changed is None else changed
    upserted = statement.values(dict.fromkeys(columns)).on_conflict_do_update(
        index_elements=keys, set_={name: statement.excluded[name] for name in wanted}
    )
    compiled = upserted.compile(dialect=sqlite.dialect(paramstyle="qmark"), column_keys=columns)
    if tuple(compiled.positiontup or ()) != columns:
        raise AssertionError(f"columns of {table.name} are bound in another order")
    return str(compiled)


def touch_project(connection: Connection, entry: Entry, touched: Touched) -> None:
    """Note that the entry's project is there, and changed at the entry's serial."""
    payload = entry.payload
    row = {
        "index_name": payload["index"],
        "name": payload["project"],
        "display": payload.get("name", payload["project"]),
        "present": 1,
        "status": b"{}",
        "bare_versions": b"[]",
        "serial": entry.serial,
    }
    upsert(connection, schema.projects, [row], changed=("present", "serial"))
    touched.projects.add(payload["project"])
    touched.lists.add(payload["index"])


def update_project(connection: Connection, entry: Entry, **values: Any) -> None:
    """Set columns of the entry's project."""
    table = schema.projects
    connection.execute(update(table).where(*of_project(table, entry, "name")).values(**values))


def of_project(table: Table, entry: Entry, column: str = "project") -> tuple[Any, Any]:
    """The condition for the rows of a table that belong to the entry's project."""
    payload = entry.payload
    return table.c.index_name == payload["index"], table.c[column] == payload["project"]


def set_files(
    connection: Connection,
    entry: Entry,
    files: Iterable[Mapping[str, Any]],
    log: bytes = b"[]",
) -> None:
    """Add distribution files to the entry's project, or replace those of the same names."""
    rows = [
        {
            "index_name": entry.payload["index"],
            "project": entry.payload["project"],
            "filename": file["filename"],
            **_links(file),
            "body": canonical(file),
            "log": log,
            "serial": entry.serial,
        }
        for file in files
    ]
    upsert(connection, schema.files, rows)


def _links(file: Mapping[str, Any]) -> dict[str, str | None]:
    digest = file.get("hashes", {}).get("sha256")
    if digest is None:
        return {"link": url_link(file["url"]), "url_link": None}
    computed = file.get("origin", {}).get("sha256") == "computed" and "url" in file
    return {"link": content_link(digest), "url_link": url_link(file["url"]) if computed else None}


def remove_files(connection: Connection, entry: Entry, filenames: Iterable[str]) -> None:
    """Remove distribution files of the entry's project."""
    table = schema.files
    for filename in filenames:
        connection.execute(
            delete(table).where(*of_project(table, entry), table.c.filename == filename)
        )


def bury(connection: Connection, entry: Entry, rows: Iterable[tuple[str, str]]) -> None:
    """Remember (link, file name) pairs of what was removed: they answer 410 from now on."""
    index = entry.payload["index"]
    graves = [
        {"index_name": index, "link": link, "filename": name, "serial": entry.serial}
        for link, name in rows
    ]
    upsert(connection, schema.removed, graves)


def versions_of_files(connection: Connection, entry: Entry) -> dict[str, str | None]:
    """The version of each file of the entry's project, by file name."""
    table = schema.files
    rows = connection.execute(select(table.c.body).where(*of_project(table, entry))).scalars()
    files = [orjson.loads(body) for body in rows]
    return {file["filename"]: file.get("version") for file in files}
