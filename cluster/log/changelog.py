"""The change log on the database: append entries, read pages of them, keep the Merkle tiles.

All functions take the connection of a transaction that the caller commits, because entries,
tiles and the state that follows from them are durable together or not at all.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from sqlalchemy import Column, Connection, Integer, LargeBinary, MetaData, Table, func, select

from cluster.errors import LogError
from cluster.log.changes import Entry, decode
from cluster.log.driver import driver
from cluster.log.merkle import (
    HASH_SIZE,
    TILE_WIDTH,
    Frontier,
    frontier_at,
    leaf_hash,
    perfect_root,
)

metadata = MetaData()


class Compacted(LogError):
    """Entries that somebody wants are not in this log any more: it begins behind `minimum`."""

    status = 410

    def __init__(self, minimum: int) -> None:
        super().__init__(f"the entries up to {minimum} are not here any more")
        self.minimum = minimum


log = Table(
    "log",
    metadata,
    Column("serial", Integer, primary_key=True),
    Column("entry", LargeBinary, nullable=False),
)

tiles = Table(
    "tiles",
    metadata,
    Column("level", Integer, primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("hashes", LargeBinary, nullable=False),
)

_TILE_BYTES: Final = TILE_WIDTH * HASH_SIZE
_ADD_ENTRY: Final = "INSERT INTO log (serial, entry) VALUES (?, ?)"
_TILE: Final = "SELECT hashes FROM tiles WHERE level = ? AND number = ?"
_SET_TILE: Final = """INSERT INTO tiles (level, number, hashes) VALUES (?, ?, ?)
ON CONFLICT (level, number) DO UPDATE SET hashes = excluded.hashes"""


def append(connection: Connection, frontier: Frontier, entries: Sequence[Entry]) -> Frontier:
    """Store entries behind the log's head and return the new frontier.

    Raises LogError for a gap: the entry's serial is its place in the tree.
    """
    leaves = [leaf_hash(entry.raw) for entry in entries]
    store(connection, frontier.size, entries, leaves)
    return frontier.extended(leaves)


def store(
    connection: Connection, size: int, entries: Sequence[Entry], leaves: Sequence[bytes]
) -> None:
    """As `append`, for a log of `size` entries and new ones whose leaf hashes are known."""
    if not entries:
        return
    for at, entry in enumerate(entries, start=size + 1):
        if entry.serial != at:
            raise LogError(f"entry {entry.serial} where {at} was expected")
    driver(connection).executemany(_ADD_ENTRY, [(entry.serial, entry.raw) for entry in entries])
    append_leaves(connection, size, b"".join(leaves))


def append_leaves(connection: Connection, start: int, leaves: bytes) -> None:
    """Make tiles of the joined leaf hashes behind the first `start`; entries may not be here."""
    level = 0
    while leaves:
        start, leaves = _append_hashes(connection, level, start, leaves)
        level += 1


def _append_hashes(
    connection: Connection, level: int, start: int, hashes: bytes
) -> tuple[int, bytes]:
    """Add joined hashes to a level; what follows from them on the next one, and its place there."""
    first, filled = divmod(start, TILE_WIDTH)
    data = (tile(connection, level, first)[: filled * HASH_SIZE] if filled else b"") + hashes
    made = [data[at : at + _TILE_BYTES] for at in range(0, len(data), _TILE_BYTES)]
    rows = [(level, number, one) for number, one in enumerate(made, start=first)]
    driver(connection).executemany(_SET_TILE, rows)
    return first, b"".join(perfect_root(one) for one in made if len(one) == _TILE_BYTES)


def tile(connection: Connection, level: int, number: int) -> bytes:
    """The concatenated hashes of a tile, maybe not yet full; empty when there is none."""
    row = driver(connection).execute(_TILE, (level, number)).fetchone()
    return row[0] if row else b""


def size(connection: Connection) -> int:
    """How many entries the log has: its last serial. Told by the tiles: entries may be gone."""
    statement = (
        select(tiles.c.number, func.length(tiles.c.hashes))
        .where(tiles.c.level == 0)
        .order_by(tiles.c.number.desc())
        .limit(1)
    )
    row = connection.execute(statement).first()
    return 0 if row is None else row[0] * TILE_WIDTH + row[1] // HASH_SIZE


def minimum(connection: Connection) -> int:
    """How many of the log's first entries are not here (any more): 0 for a whole log.

    A compacted log, and one that began with a snapshot, has only the entries behind that serial.
    """
    first = connection.execute(select(func.min(log.c.serial))).scalar()
    return size(connection) if first is None else first - 1


def remove(connection: Connection, upto: int, most: int) -> int:
    """Delete entries up to a serial, at most so many, oldest first; their number. Tiles stay."""
    last = min(upto, minimum(connection) + most)
    return connection.execute(log.delete().where(log.c.serial <= last)).rowcount


def frontier(connection: Connection, at: int | None = None) -> Frontier:
    """The frontier of the first `at` entries, or of all of them."""
    wanted = size(connection) if at is None else at
    return frontier_at(wanted, lambda level, number: tile(connection, level, number))


def read_raw(
    connection: Connection, after: int, max_bytes: int, max_entries: int, until: int | None = None
) -> list[bytes]:
    """Entries behind serial `after` (and up to `until`), at least one if there is one.

    Stops before the limits, but never inside a group of parts: readers see all of it or none.
    Raises Compacted when the next entry is not here any more: what is gone is never passed over.
    """
    _check_minimum(connection, after)
    statement = select(log.c.entry).where(log.c.serial > after).order_by(log.c.serial)
    if until is not None:
        statement = statement.where(log.c.serial <= until)
    page: list[bytes] = []
    used = 0
    whole = 0
    with connection.execution_options(yield_per=200).execute(statement) as rows:
        for (raw,) in rows:
            if whole and (used + len(raw) > max_bytes or len(page) >= max_entries):
                break
            page.append(raw)
            used += len(raw)
            # Only entries of a group hold this key; decoding the others here would double the
            # cost of a page.
            if b'"parts":' not in raw or decode(raw).ends_group:
                whole = len(page)
    return page[:whole]


def _check_minimum(connection: Connection, after: int) -> None:
    least = minimum(connection)
    if after < least:
        raise Compacted(least)


def entries(connection: Connection, after: int = 0, batch: int = 1_000) -> Iterator[Entry]:
    """All entries behind a serial, read in batches: memory stays flat. Raises Compacted."""
    _check_minimum(connection, after)
    while True:
        rows = connection.execute(
            select(log.c.entry).where(log.c.serial > after).order_by(log.c.serial).limit(batch)
        ).scalars().all()  # fmt: skip
        if not rows:
            return
        for raw in rows:
            entry = decode(raw)
            after = entry.serial
            yield entry
