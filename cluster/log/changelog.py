"""The change log on the database: append entries, read pages of them, keep the Merkle tiles.

All functions take the connection of a transaction that the caller commits, because entries,
tiles and the state that follows from them are durable together or not at all.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from sqlalchemy import Column, Connection, Integer, LargeBinary, MetaData, Table, func, select
from sqlalchemy.dialects.sqlite import insert

from cluster.errors import LogError
from cluster.log.changes import Entry, decode
from cluster.log.merkle import (
    HASH_SIZE,
    TILE_WIDTH,
    Frontier,
    frontier_at,
    leaf_hash,
    perfect_root,
)

metadata = MetaData()

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


def append(connection: Connection, frontier: Frontier, entries: Sequence[Entry]) -> Frontier:
    """Store entries behind the log's head and return the new frontier.

    Raises LogError for a gap: the entry's serial is its place in the tree.
    """
    if not entries:
        return frontier
    for at, entry in enumerate(entries, start=frontier.size + 1):
        if entry.serial != at:
            raise LogError(f"entry {entry.serial} where {at} was expected")
    connection.execute(
        log.insert(), [{"serial": entry.serial, "entry": entry.raw} for entry in entries]
    )
    leaves = [leaf_hash(entry.raw) for entry in entries]
    _append_hashes(connection, 0, frontier.size, leaves)
    return frontier.extended(leaves)


def _append_hashes(connection: Connection, level: int, start: int, hashes: Sequence[bytes]) -> None:
    number, filled = divmod(start, TILE_WIDTH)
    data = tile(connection, level, number)[: filled * HASH_SIZE] if filled else b""
    upper: list[bytes] = []
    first, at = number, 0
    while at < len(hashes):
        take = min(TILE_WIDTH - filled, len(hashes) - at)
        data += b"".join(hashes[at : at + take])
        statement = insert(tiles).values(level=level, number=number, hashes=data)
        connection.execute(
            statement.on_conflict_do_update(
                index_elements=["level", "number"], set_={"hashes": statement.excluded.hashes}
            )
        )
        if filled + take == TILE_WIDTH:
            upper.append(
                perfect_root([data[i : i + HASH_SIZE] for i in range(0, len(data), HASH_SIZE)])
            )
            number, filled, data = number + 1, 0, b""
        at += take
    if upper:
        _append_hashes(connection, level + 1, first, upper)


def tile(connection: Connection, level: int, number: int) -> bytes:
    """The concatenated hashes of a tile, maybe not yet full; empty when there is none."""
    statement = select(tiles.c.hashes).where(tiles.c.level == level, tiles.c.number == number)
    return connection.execute(statement).scalar() or b""


def size(connection: Connection) -> int:
    """How many entries the log has: its last serial."""
    return connection.execute(select(func.max(log.c.serial))).scalar() or 0


def frontier(connection: Connection, at: int | None = None) -> Frontier:
    """The frontier of the first `at` entries, or of all of them."""
    wanted = size(connection) if at is None else at
    return frontier_at(wanted, lambda level, number: tile(connection, level, number))


def read_raw(
    connection: Connection, after: int, max_bytes: int, max_entries: int, until: int | None = None
) -> list[bytes]:
    """Entries behind serial `after` (and up to `until`), at least one if there is one.

    Stops before the limits, but never inside a group of parts: readers see all of it or none.
    """
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


def entries(connection: Connection, after: int = 0, batch: int = 1_000) -> Iterator[Entry]:
    """All entries behind a serial, read in batches: memory stays flat."""
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
