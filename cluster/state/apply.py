"""The fold: `apply` is the only way from entries of the change log to state.

Deterministic: no clock, no randomness, no upstream, nothing but the entry and the tables. So
all nodes at one serial hold the same rows, and a replay from 0 gives them again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from hashlib import sha256
from typing import Any, Final

import orjson
from attrs import define, field
from sqlalchemy import Connection, Table, delete, select, update
from sqlalchemy.dialects import sqlite
from sqlalchemy.dialects.sqlite import insert

from cluster.errors import LogError
from cluster.log import changelog
from cluster.log.changes import Entry, Kind
from cluster.names import normalize
from cluster.state import schema


@define
class Touched:
    """What entries changed: readers that cached something look here.

    `projects` are normalized names, on any index; `indexes` says that users, indexes or their
    options changed, which can change any page; `lists` are indexes whose project list changed.
    """

    projects: set[str] = field(factory=set)
    lists: set[str] = field(factory=set)
    indexes: bool = False


def apply(connection: Connection, entry: Entry, touched: Touched) -> None:
    """Bring one entry into the state; raises LogError when its payload is not of its kind."""
    try:
        _APPLY[entry.kind](connection, entry, touched)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise LogError(f"entry {entry.serial} ({entry.kind}) is malformed: {error!r}") from error


def canonical(value: Any) -> bytes:
    """JSON with sorted keys: how values are kept in columns, equal on every node."""
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)


def url_link(url: str) -> str:
    """The 16 hex digits that stand in the link of a file known only by its URL."""
    return sha256(url.encode()).hexdigest()[:16]


def _links(file: Mapping[str, Any]) -> dict[str, str | None]:
    digest = file.get("hashes", {}).get("sha256")
    if digest is None:
        return {"link": url_link(file["url"]), "url_link": None}
    computed = file.get("origin", {}).get("sha256") == "computed" and "url" in file
    return {"link": digest[:16], "url_link": url_link(file["url"]) if computed else None}


def _upsert(
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
        connection.exec_driver_sql(sql, [tuple(row.values()) for row in rows])


@lru_cache(maxsize=64)
def _upsert_sql(table: Table, columns: tuple[str, ...], changed: tuple[str, ...] | None) -> str:
    statement = insert(table)
    keys = [column.name for column in table.primary_key]
    wanted = [name for name in columns if name not in keys] if changed is None else changed
    upsert = statement.values(dict.fromkeys(columns)).on_conflict_do_update(
        index_elements=keys, set_={name: statement.excluded[name] for name in wanted}
    )
    compiled = upsert.compile(dialect=sqlite.dialect(paramstyle="qmark"), column_keys=columns)
    if tuple(compiled.positiontup or ()) != columns:
        raise AssertionError(f"columns of {table.name} are bound in another order")
    return str(compiled)


def _epoch_started(connection: Connection, entry: Entry, touched: Touched) -> None:
    payload = entry.payload
    row = {"epoch": entry.epoch, "serial": entry.serial, "log": payload["log"]}
    _upsert(connection, schema.epochs, [{**row, "key": payload["key"]}])


def _user_set(connection: Connection, entry: Entry, touched: Touched) -> None:
    body = canonical({k: entry.payload[k] for k in ("options", "password") if k in entry.payload})
    row = {"name": entry.payload["user"], "body": body, "serial": entry.serial}
    _upsert(connection, schema.users, [row])
    touched.indexes = True


def _user_removed(connection: Connection, entry: Entry, touched: Touched) -> None:
    connection.execute(delete(schema.users).where(schema.users.c.name == entry.payload["user"]))
    touched.indexes = True


def _index_set(connection: Connection, entry: Entry, touched: Touched) -> None:
    row = {
        "name": entry.payload["index"],
        "type": entry.payload["type"],
        "body": canonical(entry.payload["options"]),
        "serial": entry.serial,
    }
    _upsert(connection, schema.indexes, [row])
    touched.indexes = True


def _index_removed(connection: Connection, entry: Entry, touched: Touched) -> None:
    index = entry.payload["index"]
    connection.execute(delete(schema.indexes).where(schema.indexes.c.name == index))
    connection.execute(delete(schema.files).where(schema.files.c.index_name == index))
    connection.execute(delete(schema.listing).where(schema.listing.c.index_name == index))
    connection.execute(
        update(schema.projects)
        .where(schema.projects.c.index_name == index)
        .values(present=0, serial=entry.serial, status=b"{}", bare_versions=b"[]")
    )
    _touch_heirs(connection, entry)
    touched.indexes = True


def _touch_heirs(connection: Connection, entry: Entry) -> None:
    """A page that loses a base must not go back to the serial it had before that base came."""
    table = schema.indexes
    rows = connection.execute(select(table.c.name, table.c.body)).all()
    heirs = [
        r.name for r in rows if entry.payload["index"] in orjson.loads(r.body).get("bases", ())
    ]
    statement = update(table).where(table.c.name.in_(heirs)).values(serial=entry.serial)
    connection.execute(statement)


def _file_added(connection: Connection, entry: Entry, touched: Touched) -> None:
    payload = entry.payload
    _touch_project(connection, entry, touched)
    _set_files(connection, entry, [payload["file"]])


def _file_removed(connection: Connection, entry: Entry, touched: Touched) -> None:
    _touch_project(connection, entry, touched)
    _remove_files(connection, entry, [entry.payload["filename"]])
    index, project = entry.payload["index"], entry.payload["project"]
    files = schema.files
    left = select(files.c.filename).where(files.c.index_name == index, files.c.project == project)
    if connection.execute(left.limit(1)).first() is None:
        _update_project(connection, entry, present=0)


def _mirror_project(connection: Connection, entry: Entry, touched: Touched) -> None:
    payload = entry.payload
    _touch_project(connection, entry, touched)
    facts: dict[str, Any] = {}
    if "status" in payload:
        facts["status"] = canonical(payload["status"])
    if "bare_added" in payload or "bare_removed" in payload:
        bare = set(_bare_versions(connection, payload)) - set(payload.get("bare_removed", ()))
        facts["bare_versions"] = canonical(sorted(bare | set(payload.get("bare_added", ()))))
    if facts:
        _update_project(connection, entry, **facts)
    _remove_files(connection, entry, payload.get("removed", ()))
    _set_files(connection, entry, payload.get("files", ()))


def _bare_versions(connection: Connection, payload: Mapping[str, Any]) -> list[str]:
    table = schema.projects
    statement = select(table.c.bare_versions).where(
        table.c.index_name == payload["index"], table.c.name == payload["project"]
    )
    versions: list[str] = orjson.loads(connection.execute(statement).scalar_one())
    return versions


def _mirror_listing(connection: Connection, entry: Entry, touched: Touched) -> None:
    payload = entry.payload
    for present, names in ((0, payload.get("removed", ())), (1, payload.get("added", ()))):
        rows = [
            {
                "index_name": payload["index"],
                "name": normalize(name),
                "display": name,
                "present": present,
                "serial": entry.serial,
            }
            for name in names
        ]
        _upsert(connection, schema.listing, rows)
    touched.lists.add(payload["index"])


def _touch_project(connection: Connection, entry: Entry, touched: Touched) -> None:
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
    _upsert(connection, schema.projects, [row], changed=("present", "serial"))
    touched.projects.add(payload["project"])
    touched.lists.add(payload["index"])


def _update_project(connection: Connection, entry: Entry, **values: Any) -> None:
    table = schema.projects
    connection.execute(
        update(table)
        .where(
            table.c.index_name == entry.payload["index"], table.c.name == entry.payload["project"]
        )
        .values(**values)
    )


def _set_files(connection: Connection, entry: Entry, files: Iterable[Mapping[str, Any]]) -> None:
    rows = [
        {
            "index_name": entry.payload["index"],
            "project": entry.payload["project"],
            "filename": file["filename"],
            **_links(file),
            "body": canonical(file),
            "serial": entry.serial,
        }
        for file in files
    ]
    _upsert(connection, schema.files, rows)


def _remove_files(connection: Connection, entry: Entry, filenames: Iterable[str]) -> None:
    table = schema.files
    for filename in filenames:
        connection.execute(
            delete(table).where(
                table.c.index_name == entry.payload["index"],
                table.c.project == entry.payload["project"],
                table.c.filename == filename,
            )
        )


_APPLY: Final[Mapping[Kind, Callable[[Connection, Entry, Touched], None]]] = {
    Kind.EPOCH_STARTED: _epoch_started,
    Kind.USER_SET: _user_set,
    Kind.USER_REMOVED: _user_removed,
    Kind.INDEX_SET: _index_set,
    Kind.INDEX_REMOVED: _index_removed,
    Kind.FILE_ADDED: _file_added,
    Kind.FILE_REMOVED: _file_removed,
    Kind.MIRROR_PROJECT: _mirror_project,
    Kind.MIRROR_LISTING: _mirror_listing,
}


def digest(connection: Connection) -> str:
    """SHA-256 (hex) over all rows in canonical order: equal states have equal digests."""
    total = sha256()
    for table in schema.TABLES:
        keys = list(table.primary_key)
        rows = connection.execution_options(yield_per=1_000).execute(select(table).order_by(*keys))
        for row in rows:
            total.update(repr((table.name, *row)).encode())
    return total.hexdigest()


def rebuild(connection: Connection, progress: Callable[[int], None] = lambda serial: None) -> None:
    """Refill every table by replaying the log from its start, in the caller's transaction."""
    for table in schema.TABLES:
        connection.execute(delete(table))
    for entry in changelog.entries(connection):
        apply(connection, entry, Touched())
        progress(entry.serial)
