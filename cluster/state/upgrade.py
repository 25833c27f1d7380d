"""Tables of another version: refilled from the log, because all of them follow from it.

A log that does not reach back to its first entry (compacted, or begun with a snapshot) cannot
refill them: who raises VERSION brings the rows along by a step in `MIGRATIONS`. What a newer
program made is not touched: it may mean more than this one can read.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final
from zlib import crc32

from sqlalchemy import Connection, Engine, inspect
from twisted.logger import Logger

from cluster.errors import PymirrorError, UnknownFormat
from cluster.log import changelog, notes
from cluster.log.changes import FORMAT, known_kind
from cluster.state import schema
from cluster.state.apply import rebuild
from cluster.state.database import writing

_log = Logger()

MIGRATIONS: Final[Mapping[int, Callable[[Connection], None]]] = {}
"""By version, from the oldest that is supported: what brings rows from there to the next version,
to what a replay would have made of them. Steps run one after the other, up to VERSION; they
create and change tables by SQL of their own, because `schema` goes on changing."""

_KEPT: Final = frozenset(table.name for table in (changelog.log, changelog.tiles, notes.notes))
_TELL_EVERY = 100_000
_KINDS = (
    "SELECT min(serial), json_extract(CAST(entry AS TEXT), '$.kind') AS kind, "
    "json_extract(CAST(entry AS TEXT), '$.format') AS format FROM log GROUP BY kind, format"
)


class CannotReplay(PymirrorError):
    """The state is of an older version, and neither the log nor a step leads to this one."""


class MadeByNewer(PymirrorError):
    """The state is of a version that this program does not know."""


def bring_up_to_date(engine: Engine) -> None:
    """Make the state's tables be of this program's version; blocking, minutes for a long log.

    One transaction: after a crash the old tables are still there, and it is done again. Raises
    MadeByNewer, UnknownFormat and CannotReplay; nothing has changed then.
    """
    with writing(engine) as connection:
        found = version(connection)
        least = changelog.minimum(connection)
        if found > schema.VERSION:
            raise MadeByNewer(_way_back(found, least))
        _require_known_kinds(connection)
        if found < schema.VERSION and least:
            _migrate(connection, found, least)
        elif found < schema.VERSION:
            if changelog.size(connection):
                _log.info("bringing the index state from version {old} to {new}",
                          old=found, new=schema.VERSION)  # fmt: skip
            refill(connection, _tell)


def version(connection: Connection) -> int:
    """The version of the state's tables; 0 while there are none."""
    return int(connection.exec_driver_sql("PRAGMA user_version").scalar_one())


def refill(connection: Connection, progress: Callable[[int], None]) -> None:
    """Replace all tables, whichever version made them, by a replay, in the caller's transaction.

    Everything but the log, its tiles and its notes follows from the log. Raises Compacted for a
    part of one, UnknownFormat for entries of a newer program.
    """
    for name in inspect(connection).get_table_names():
        if name not in _KEPT:
            connection.exec_driver_sql(f'DROP TABLE "{name}"')
    schema.metadata.create_all(connection)
    rebuild(connection, progress)
    connection.exec_driver_sql(f"PRAGMA user_version={schema.VERSION}")


def _migrate(connection: Connection, found: int, least: int) -> None:
    steps = range(found, schema.VERSION)
    if not all(step in MIGRATIONS for step in steps):
        raise CannotReplay(
            f"the state is of version {found}, this program needs {schema.VERSION} and cannot "
            f"bring it along, and the log here begins behind entry {least}. Of a replica, remove "
            "log.sqlite: it starts from a snapshot again, of a primary of this version. A primary "
            "needs the program that it had, or a folder with the whole log"
        )
    for step in steps:
        _log.info("bringing the rows of the index state from version {old} to {new}",
                  old=step, new=step + 1)  # fmt: skip
        MIGRATIONS[step](connection)
    connection.exec_driver_sql(f"PRAGMA user_version={schema.VERSION}")


def _way_back(found: int, least: int) -> str:
    back = (
        "`pymirror rebuild` refills it from the log"
        if least == 0
        else "a replica of a primary of this version starts from a snapshot when log.sqlite is "
        "removed; in place of a primary promote a replica that was left at this version"
    )
    return (
        f"the state is of version {found}, made by a newer pymirror; this one knows "
        f"{schema.VERSION}. Install the newer one again; or, to go back: {back}"
    )


def _require_known_kinds(connection: Connection) -> None:
    """Raise UnknownFormat when a newer program has recorded what this one does not know.

    It could serve what that left in the tables, but not what it means. The number stands for all
    that a program knows: only who opens a database for the first time reads the whole log.
    """
    known = crc32(repr(sorted(FORMAT.items())).encode()) >> 1
    if connection.exec_driver_sql("PRAGMA application_id").scalar() == known:
        return
    for serial, kind, format_number in connection.exec_driver_sql(_KINDS):
        try:
            known_kind(kind, format_number)
        except UnknownFormat as error:
            raise UnknownFormat(
                f"entry {serial} was recorded by a newer pymirror, install that again: {error}"
            ) from None
    connection.exec_driver_sql(f"PRAGMA application_id={known}")


def _tell(serial: int) -> None:
    if serial % _TELL_EVERY == 0:
        _log.info("replayed {serial} entries", serial=serial)
