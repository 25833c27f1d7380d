"""Signed checkpoints that a replica has followed to: where the pages that it serves can end.

A replica cannot sign, so it keeps the owner's notes: all of late, and of older ones the last in
each stretch of the log, which keeps the table small and every page within its bound. Functions
take the connection of a transaction that the caller commits.
"""

from __future__ import annotations

from typing import Final

from sqlalchemy import Column, Connection, Integer, LargeBinary, Table, delete, func, select

from cluster.log import changelog
from cluster.log.driver import driver

RECENT_ENTRIES: Final = 1_000
# With the largest group behind it, and the largest entries, still less than TAIL_PAGE_LIMIT.
STRETCH_ENTRIES: Final = 100

notes = Table(
    "notes",
    changelog.metadata,
    Column("size", Integer, primary_key=True),
    Column("note", LargeBinary, nullable=False),
)


_REMOVE_BEHIND: Final = "DELETE FROM notes WHERE size > ?"
_SET: Final = """INSERT INTO notes (size, note) VALUES (?, ?)
ON CONFLICT (size) DO UPDATE SET note = excluded.note"""


def keep(connection: Connection, before: int, size: int, note: bytes) -> None:
    """Keep the note for a log of `size` entries, which had `before` a moment ago."""
    cursor = driver(connection)
    cursor.execute(_REMOVE_BEHIND, (size,))  # of a history taken back
    cursor.execute(_SET, (size, note))
    if before // STRETCH_ENTRIES != size // STRETCH_ENTRIES:
        _thin_out(connection, size - RECENT_ENTRIES)


def _thin_out(connection: Connection, upto: int) -> None:
    # What lies before this window was thinned out when it was young.
    window = notes.c.size.between(upto - 2 * RECENT_ENTRIES, upto)
    stretch = notes.c.size // STRETCH_ENTRIES
    last = select(func.max(notes.c.size)).where(window).group_by(stretch)
    connection.execute(delete(notes).where(window, notes.c.size.not_in(last)))


def at(connection: Connection, size: int) -> bytes | None:
    """The note for exactly this size."""
    return connection.execute(select(notes.c.note).where(notes.c.size == size)).scalar()


def best_end(connection: Connection, start: int, wanted: int, most: int) -> int | None:
    """Where a page behind `start` can end: best not behind `wanted`, in any case not behind `most`.

    None when no note is here for that.
    """
    upto = notes.c.size.between(start + 1, wanted)
    best = connection.execute(select(func.max(notes.c.size)).where(upto)).scalar()
    if best is None:
        beyond = notes.c.size.between(wanted + 1, most)
        best = connection.execute(select(func.min(notes.c.size)).where(beyond)).scalar()
    return best
