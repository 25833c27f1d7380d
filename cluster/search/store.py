"""search.sqlite: the documents, their words (SQLite FTS5), and how far they are current.

Everything in it follows from the state: it can be removed at any time.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from attrs import astuple, fields, frozen
from sqlalchemy import Connection, Engine

from cluster.names import IndexName
from cluster.search.documents import Document, Key
from cluster.search.words import FIELDS
from cluster.state.database import open_engine, writing

VERSION: Final = 1
"""Of these tables; a store of another version is made anew."""

_WORDS = ", ".join(FIELDS)
_COLUMNS = ", ".join(f.name for f in fields(Document)).replace("index,", "index_name,")
_MARKS = ", ".join("?" for _ in fields(Document))
_TABLES: Final = (
    "DROP TABLE IF EXISTS words",
    "DROP TABLE IF EXISTS documents",
    "DROP TABLE IF EXISTS progress",
    "CREATE TABLE progress (log TEXT, serial INTEGER, cursor_index TEXT, cursor_name TEXT)",
    "CREATE TABLE documents (id INTEGER PRIMARY KEY, index_name TEXT, project TEXT, version TEXT,"
    " summary TEXT, name TEXT, keywords TEXT, classifiers TEXT, author TEXT, description TEXT,"
    " UNIQUE (index_name, project))",
    f"CREATE VIRTUAL TABLE words USING fts5({_WORDS}, content='documents', content_rowid='id',"
    " tokenize='unicode61 remove_diacritics 2')",
    # FTS5 beside a table of our own needs the old text to forget it.
    "CREATE TRIGGER documents_added AFTER INSERT ON documents BEGIN"
    " INSERT INTO words (rowid, name, summary, keywords, classifiers, author, description)"
    " VALUES (new.id, new.name, new.summary, new.keywords, new.classifiers, new.author,"
    " new.description); END",
    "CREATE TRIGGER documents_removed AFTER DELETE ON documents BEGIN"
    " INSERT INTO words (words, rowid, name, summary, keywords, classifiers, author, description)"
    " VALUES ('delete', old.id, old.name, old.summary, old.keywords, old.classifiers, old.author,"
    " old.description); END",
)
# In the order of FIELDS: a word in the name says more than one in a description.
_WEIGHTS = "10.0, 4.0, 4.0, 1.0, 2.0, 1.0"
_FIND = f"""
    SELECT d.index_name, d.project, d.name, d.version, d.summary
    FROM words JOIN documents d ON d.id = words.rowid
    WHERE words MATCH ? AND d.index_name IN (SELECT value FROM json_each(?))
    ORDER BY d.project = ? DESC, bm25(words, {_WEIGHTS}), d.project, d.index_name
    LIMIT ? OFFSET ?
"""  # noqa: S608 (constants)


@frozen
class Hit:
    """A project that was found on an index; `name` is as its owner writes it.

    `version` and `summary` are those of the latest release, empty on mirrors.
    """

    index: IndexName
    project: str
    name: str
    version: str
    summary: str


@frozen
class Progress:
    """The log that the store follows, the serial up to which it does, and, while it is being
    built, the key of the last project that is in it."""

    log: str
    serial: int
    cursor: Key | None = None


def open_store(path: Path) -> Engine:
    """Open or make the store; raises DatabaseError for a file that is none."""
    engine = open_engine(path, durable=False)
    with writing(engine) as connection:
        if connection.exec_driver_sql("PRAGMA user_version").scalar() != VERSION:
            clear(connection)
            connection.exec_driver_sql(f"PRAGMA user_version={VERSION}")
    return engine


def remove_store(path: Path) -> None:
    """Delete the store's files."""
    for suffix in ("", "-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)


def clear(connection: Connection) -> None:
    """Make all tables anew."""
    for statement in _TABLES:
        connection.exec_driver_sql(statement)


def progress(connection: Connection) -> Progress | None:
    """How far the store is; None for an empty one."""
    row = connection.exec_driver_sql("SELECT * FROM progress").first()
    if row is None:
        return None
    cursor = None if row.cursor_index is None else (row.cursor_index, row.cursor_name)
    return Progress(row.log, row.serial, cursor)


def set_progress(connection: Connection, value: Progress) -> None:
    """Note how far the store is, in the transaction that brought it there."""
    connection.exec_driver_sql("DELETE FROM progress")
    row = (value.log, value.serial, *(value.cursor or (None, None)))
    connection.exec_driver_sql("INSERT INTO progress VALUES (?, ?, ?, ?)", row)


def write(connection: Connection, documents: Mapping[Key, Document | None]) -> None:
    """Set documents, and remove those that are None; what is equal already costs no write."""
    known = _known(connection, documents)
    stale = [known[key][0] for key, new in documents.items() if key in known
             and known[key][1] != new]  # fmt: skip
    fresh = [new for key, new in documents.items() if new is not None
             and (key not in known or known[key][1] != new)]  # fmt: skip
    _delete(connection, stale)
    if fresh:
        connection.exec_driver_sql(
            f"INSERT INTO documents ({_COLUMNS}) VALUES ({_MARKS})",  # noqa: S608 (constants)
            [astuple(document) for document in fresh],
        )


def _known(
    connection: Connection, documents: Mapping[Key, Document | None]
) -> dict[Key, tuple[int, Document]]:
    by_index: dict[str, list[str]] = {}
    for index, project in documents:
        by_index.setdefault(index, []).append(project)
    sql = (
        f"SELECT id, {_COLUMNS} FROM documents WHERE index_name = ?"  # noqa: S608 (constants)
        " AND project IN (SELECT value FROM json_each(?))"
    )
    rows = [
        row
        for index, names in by_index.items()
        for row in connection.exec_driver_sql(sql, (index, json.dumps(names)))
    ]
    return {(row[1], row[2]): (row[0], Document(*row[1:])) for row in rows}


def drop_some(connection: Connection, index: str, limit: int) -> bool:
    """Remove up to `limit` documents of an index; whether there were any."""
    rows = connection.exec_driver_sql(
        "SELECT id FROM documents WHERE index_name = ? LIMIT ?", (index, limit)
    )
    ids = list(rows.scalars())
    _delete(connection, ids)
    return bool(ids)


def _delete(connection: Connection, ids: Sequence[int]) -> None:
    if ids:
        connection.exec_driver_sql("DELETE FROM documents WHERE id = ?", [(id,) for id in ids])


def find(
    connection: Connection,
    indexes: Sequence[IndexName],
    expression: str,
    exact: str,
    limit: int,
    offset: int = 0,
) -> list[Hit]:
    """What matches an FTS5 expression on these indexes, best first; a project called `exact`
    comes before all others."""
    bound = (expression, json.dumps(list(indexes)), exact, limit, offset)
    return [Hit(*row) for row in connection.exec_driver_sql(_FIND, bound)]
