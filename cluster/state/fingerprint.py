"""Digests of parts of the index state: two nodes find where they differ without sending rows.

Rows belong to a bucket by their index and project, or to the bucket of their table when they
have none. Equal rows give equal digests on every node, whatever the order of writing was.
"""

from __future__ import annotations

from collections.abc import Iterator
from hashlib import sha256
from typing import Any

from sqlalchemy import Connection, Table, select, tuple_

from cluster.state import schema

_PROJECTS = 5_000
_PROJECT_COLUMN = {"projects": "name", "listing": "name"}


def bucket_of(key: str) -> str:
    """The bucket (two hex digits) of ``<user>/<index> <project>``."""
    return sha256(key.encode()).hexdigest()[:2]


def buckets(connection: Connection) -> dict[str, str]:
    """The digest (hex) of each bucket that has rows: by two hex digits, or by a table's name."""
    totals: dict[str, Any] = {}
    for key, row in _rows(connection):
        name = bucket_of(key) if " " in key else key
        totals.setdefault(name, sha256()).update(row)
    return {name: total.hexdigest() for name, total in sorted(totals.items())}


def keys_of(connection: Connection, bucket: str) -> dict[str, str]:
    """The digest of each project, or of each row, in one bucket."""
    totals: dict[str, Any] = {}
    for key, row in _rows(connection):
        if bucket == (bucket_of(key) if " " in key else key):
            name = key if " " in key else sha256(row).hexdigest()[:16]
            totals.setdefault(name, sha256()).update(row)
    return {name: total.hexdigest() for name, total in sorted(totals.items())}


def projects_after(connection: Connection, index: str, project: str) -> list[tuple[str, str]]:
    """(index, project) of what is held behind a place in their order; at most some thousands."""
    table = schema.projects
    statement = (
        select(table.c.index_name, table.c.name)
        .where(table.c.present == 1, tuple_(table.c.index_name, table.c.name) > (index, project))
        .order_by(table.c.index_name, table.c.name)
        .limit(_PROJECTS)
    )
    return [(row[0], row[1]) for row in connection.execute(statement)]


def _rows(connection: Connection) -> Iterator[tuple[str, bytes]]:
    """Every row with its key, in the order of its table's primary key."""
    for table in schema.TABLES:
        statement = select(table).order_by(*table.primary_key)
        for row in connection.execution_options(yield_per=1_000).execute(statement):
            yield _key(table, row), repr((table.name, *row)).encode()


def _key(table: Table, row: Any) -> str:
    if "index_name" not in table.c:
        return str(table.name)
    column = _PROJECT_COLUMN.get(table.name, "project")
    return f"{row.index_name} {getattr(row, column)}" if column in table.c else str(table.name)
