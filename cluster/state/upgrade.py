"""Tables of another version: refilled from the log, because all of them follow from it."""

from __future__ import annotations

from sqlalchemy import Engine, inspect
from twisted.logger import Logger

from cluster.log import changelog
from cluster.state import schema
from cluster.state.apply import rebuild
from cluster.state.database import writing

_log = Logger()
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
        for table in schema.TABLES:
            if table.name in known:
                table.drop(connection)
        schema.metadata.create_all(connection)
        if changelog.log.name in known and changelog.size(connection):
            _log.info("bringing the index state from version {old} to {new}",
                      old=found, new=schema.VERSION)  # fmt: skip
            rebuild(connection, _tell)
        connection.exec_driver_sql(f"PRAGMA user_version={schema.VERSION}")


def _tell(serial: int) -> None:
    if serial % _TELL_EVERY == 0:
        _log.info("replayed {serial} entries", serial=serial)
