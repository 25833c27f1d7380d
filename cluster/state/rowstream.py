"""All rows of the state as bytes in canonical order: what snapshots hold, and their digest.

A row is one line of JSON, its columns in the order of the schema, rows in the order of the
primary key. Binary columns hold JSON, so they are text here, and become bytes again when rows
are inserted. Straight to the driver: a large index has millions of rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from functools import lru_cache
from hashlib import sha256
from sqlite3 import IntegrityError, InterfaceError, ProgrammingError

import orjson
from sqlalchemy import Connection, LargeBinary, Table

from cluster.errors import LogError
from cluster.log.driver import driver
from cluster.state import schema

_BLOCK_ROWS = 100

Tick = Callable[[int], None]
"""Told how many rows were dealt with since the last call."""


def header(table: Table) -> bytes:
    """What stands for a table in the digest: its name and columns."""
    return orjson.dumps([table.name, [column.name for column in table.columns]]) + b"\n"


def blocks(connection: Connection, table: Table) -> Iterator[tuple[bytes, int]]:
    """A table's rows as lines, some at a time, and how many they are."""
    with closing(driver(connection).execute(_select(table))) as cursor:
        while rows := cursor.fetchmany(_BLOCK_ROWS):
            yield b"\n".join(map(orjson.dumps, rows)) + b"\n", len(rows)


@lru_cache(maxsize=64)
def _select(table: Table) -> str:
    columns = ", ".join(
        f'CAST("{c.name}" AS TEXT)' if isinstance(c.type, LargeBinary) else f'"{c.name}"'
        for c in table.columns
    )
    keys = ", ".join(f'"{c.name}"' for c in table.primary_key)
    return f'SELECT {columns} FROM "{table.name}" ORDER BY {keys}'  # noqa: S608 (our schema)


@lru_cache(maxsize=64)
def _insert(table: Table) -> str:
    values = ", ".join(
        "CAST(? AS BLOB)" if isinstance(c.type, LargeBinary) else "?" for c in table.columns
    )
    return f'INSERT INTO "{table.name}" VALUES ({values})'  # noqa: S608 (our schema)


def state_digest(connection: Connection, tick: Tick = lambda rows: None) -> str:
    """SHA-256 (hex) over all rows: equal states have equal digests."""
    total = sha256()
    for table in schema.TABLES:
        total.update(header(table))
        for block, rows in blocks(connection, table):
            total.update(block)
            tick(rows)
    return total.hexdigest()


def insert_rows(connection: Connection, name: str, raw: bytes) -> int:
    """Insert lines into the table of this name and return their number; raises LogError."""
    table = next((table for table in schema.TABLES if table.name == name), None)
    if table is None:
        raise LogError(f"rows of a table {name!r}, which this program does not have")
    try:
        rows = list(map(orjson.loads, raw.splitlines()))
    except orjson.JSONDecodeError:
        raise LogError(f"rows of {name} are not JSON") from None
    if not set(map(type, rows)) <= {list} or not set(map(len, rows)) <= {len(table.columns)}:
        raise LogError(f"rows of {name} do not have its columns")
    try:
        driver(connection).executemany(_insert(table), rows)
    except (IntegrityError, InterfaceError, ProgrammingError, OverflowError) as error:
        raise LogError(f"rows of {name} do not fit into it: {error}") from None
    return len(rows)
