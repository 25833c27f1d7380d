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
from typing import Any

import orjson
from attrs import define, field
from sqlalchemy import Connection, LargeBinary, Table

from cluster.errors import LogError
from cluster.log.driver import WRONG_VALUES, driver
from cluster.state import schema

_BLOCK_ROWS = 100


def _header(table: Table) -> bytes:
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
            self._total.update(_header(table))
        self._begun = count


def insert_rows(connection: Connection, name: str, raw: bytes) -> int:
    """Insert lines into the table of this name and return their number; raises LogError."""
    table = next((table for table in schema.TABLES if table.name == name), None)
    if table is None:
        raise LogError(f"rows of a table {name!r}, which this program does not have")
    # Row by row, so that none lives for long. What is no row of this table is not inserted, or has
    # another digest than was signed.
    rows = map(orjson.loads, raw.splitlines())
    try:
        return max(0, driver(connection).executemany(_insert(table), rows).rowcount)
    except orjson.JSONDecodeError:
        raise LogError(f"rows of {name} are not JSON") from None
    except WRONG_VALUES as error:
        raise LogError(f"rows of {name} do not fit into it: {error}") from None
