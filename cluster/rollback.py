"""Taking back the end of a log that another history has replaced.

After a promotion the old primary, and replicas that had followed it further than the new one,
hold entries that are in nobody else's log. They are kept in a file for the operator, never
dropped silently; then log, tiles and state become what they were at the last common entry.
"""

from __future__ import annotations

import os
from pathlib import Path

from sqlalchemy import Connection, delete, select, update

from cluster.durable import sync_folder
from cluster.errors import LogError
from cluster.log import changelog
from cluster.log.merkle import HASH_SIZE, TILE_WIDTH
from cluster.state import queries
from cluster.state.apply import rebuild

_BATCH = 1_000


def roll_back(connection: Connection, size: int, folder: Path) -> Path | None:
    """Cut the log to its first `size` entries, in the caller's transaction; blocking, minutes for
    a long log. Returns the file with the entries that were cut off, None if there were none.

    Order: that file is durable before the caller can commit. Raises LogError; that is Compacted,
    with the file written, when the log does not reach back to its first entry, so that only a
    snapshot leads on.
    """
    before = changelog.size(connection)
    if before <= size:
        return None
    if size < 1:
        raise LogError("not even the first entry is common: this is another log")
    epoch = queries.epoch(connection)
    kept = _keep(connection, size, orphans_file(folder, epoch.epoch if epoch else 0, size))
    connection.execute(delete(changelog.log).where(changelog.log.c.serial > size))
    _cut_tiles(connection, size)
    rebuild(connection)
    return kept


def orphans_file(folder: Path, epoch: int, size: int) -> Path:
    """Where the entries of an epoch are kept that nobody else has behind the first `size`."""
    return folder / f"orphaned-{epoch}-{size}.log"


def _keep(connection: Connection, size: int, path: Path) -> Path:
    with path.open("wb") as file:
        os.fchmod(file.fileno(), 0o600)
        first = max(size, changelog.minimum(connection))
        for entry in changelog.entries(connection, first, _BATCH):
            file.write(entry.raw + b"\n")
        file.flush()
        os.fsync(file.fileno())
    sync_folder(path.parent)
    return path


def _cut_tiles(connection: Connection, size: int) -> None:
    table = changelog.tiles
    levels = connection.execute(select(table.c.level).distinct()).scalars().all()
    for level in levels:
        number, width = divmod(size >> (8 * level), TILE_WIDTH)
        of_level = table.c.level == level
        connection.execute(delete(table).where(of_level, table.c.number > number))
        kept = changelog.tile(connection, level, number)[: width * HASH_SIZE]
        where = (of_level, table.c.number == number)
        if kept:
            connection.execute(update(table).where(*where).values(hashes=kept))
        else:
            connection.execute(delete(table).where(*where))
