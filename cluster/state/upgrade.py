"""Tables of another version: refilled from the log, because all of them follow from it.

A log that does not reach back to its first entry (compacted, or begun with a snapshot) cannot
refill them. A replica then starts from a snapshot again; for a primary, who raises VERSION has
to bring the rows along by a step in `MIGRATIONS`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from sqlalchemy import Connection, Engine, inspect
from twisted.logger import Logger

from cluster.errors import PymirrorError
from cluster.log import changelog
from cluster.state import schema
from cluster.state.apply import rebuild
from cluster.state.database import writing

_log = Logger()

MIGRATIONS: Final[Mapping[int, Callable[[Connection], None]]] = {}
"""By the version that is found: what brings rows from there to VERSION without the log."""


class CannotReplay(PymirrorError):
    """The state is of another version, and the log does not reach back to its first entry."""


_TELL_EVERY = 100_000


def bring_up_to_date(engine: Engine) -> None:
    """Make the state's tables be of this program's version; blocking, minutes for a long log.

    One transaction: after a crash the old tables are still there, and it is done again.
    """
    with writing(engine) as connection:
        found = connection.exec_driver_sql("PRAGMA user_version").scalar()
        if found == schema.VERSION:
            return
        known = set(inspect(connection).get_table_names())
        least = changelog.minimum(connection) if changelog.log.name in known else 0
        if least:
            _migrate(connection, found, least)
            return
        for table in schema.TABLES:
            if table.name in known:
                table.drop(connection)
        schema.metadata.create_all(connection)
        if changelog.log.name in known and changelog.size(connection):
            _log.info("bringing the index state from version {old} to {new}",
                      old=found, new=schema.VERSION)  # fmt: skip
            rebuild(connection, _tell)
        connection.exec_driver_sql(f"PRAGMA user_version={schema.VERSION}")


def _migrate(connection: Connection, found: Any, least: int) -> None:
    if found not in MIGRATIONS:
        raise CannotReplay(
            f"the state is of version {found}, this program needs {schema.VERSION}, and the log "
            f"here begins behind entry {least}. Of a replica, remove log.sqlite: it starts from "
            "a snapshot again. A primary needs the version before, or a folder with the whole log"
        )
    MIGRATIONS[found](connection)
    connection.exec_driver_sql(f"PRAGMA user_version={schema.VERSION}")


def _tell(serial: int) -> None:
    if serial % _TELL_EVERY == 0:
        _log.info("replayed {serial} entries", serial=serial)
