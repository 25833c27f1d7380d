"""All rows of the state as bytes in canonical order: what snapshots hold, and their digest.

A row is one line of JSON, its columns in the order of the schema, rows in the order of the
primary key. Binary columns hold JSON, so they are text here, and become bytes again when rows
are inserted. Straight to the driver: a large index has millions of rows.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from functools import lru_cache
from hashlib import sha256
from sqlite3 import IntegrityError, InterfaceError, ProgrammingError
from types import NoneType
from typing import Any

import orjson
from attrs import define, field
from sqlalchemy import Column, Connection, Integer, LargeBinary, Table

from cluster.errors import LogError
from cluster.log.driver import driver
from cluster.state import schema

_BLOCK_ROWS = 100


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


@define
class StateDigest:
    """SHA-256 over all rows, from pieces that come in the order of the schema: equal states have
    equal digests.
    """

    _total: Any = field(factory=sha256)
    _begun: int = 0

    def add(self, name: str, lines: bytes) -> None:
        """Some rows of a table; raises LogError for one that has no place here."""
        if not self._begun or schema.TABLES[self._begun - 1].name != name:
            later = (n for n in range(self._begun, len(schema.TABLES)))
            number = next((n for n in later if schema.TABLES[n].name == name), None)
            if number is None:
                raise LogError(f"rows of a table {name!r} where there should be none")
            self._begin(number + 1)
        self._total.update(lines)

    def whole(self) -> str:
        """The digest (hex); nothing comes behind it."""
        self._begin(len(schema.TABLES))
        return str(self._total.hexdigest())

    def _begin(self, count: int) -> None:
        for table in schema.TABLES[self._begun : count]:
            self._total.update(header(table))
        self._begun = count


def insert_rows(connection: Connection, name: str, raw: bytes) -> int:
    """Insert lines into the table of this name and return their number; raises LogError.

    A value of a type that its column would convert is refused: so what is in the table has the
    bytes of these lines.
    """
    table = next((table for table in schema.TABLES if table.name == name), None)
    if table is None:
        raise LogError(f"rows of a table {name!r}, which this program does not have")
    try:
        rows = list(map(orjson.loads, raw.splitlines()))
    except orjson.JSONDecodeError:
        raise LogError(f"rows of {name} are not JSON") from None
    if not set(map(type, rows)) <= {list} or not set(map(len, rows)) <= {len(table.columns)}:
        raise LogError(f"rows of {name} do not have its columns")
    for column, values in zip(table.columns, zip(*rows, strict=True), strict=bool(rows)):
        if not set(map(type, values)) <= _types(column):
            raise LogError(f"rows of {name} have other values of {column.name} than it takes")
    try:
        driver(connection).executemany(_insert(table), rows)
    except (IntegrityError, InterfaceError, ProgrammingError, OverflowError) as error:
        raise LogError(f"rows of {name} do not fit into it: {error}") from None
    return len(rows)


def _types(column: Column[Any]) -> frozenset[type]:
    kind = int if isinstance(column.type, Integer) else str
    return frozenset({kind, NoneType} if column.nullable else {kind})
