"""The database driver's own connection, for statements that run a million times in a catch-up or
once for each upload, and for those that begin and divide transactions.

There SQLAlchemy's handling of a statement costs several times what SQLite does for it. Errors are
the driver's own (`sqlite3.Error`). Everything else goes through SQLAlchemy.
"""

from __future__ import annotations

import sqlite3
from typing import Final, cast

from sqlalchemy import Connection, exc

STORE_ERRORS: Final = (exc.DBAPIError, sqlite3.Error)
"""What a statement raises, however it was executed."""
WRONG_VALUES: Final = (
    exc.InterfaceError, exc.ProgrammingError, exc.IntegrityError, sqlite3.InterfaceError,
    sqlite3.ProgrammingError, sqlite3.IntegrityError, OverflowError,
)  # fmt: skip
"""What it raises for a value that its column cannot hold; but see `is_closed`."""
_CLOSED: Final = "Cannot operate on a closed database."


def is_closed(error: Exception) -> bool:
    """Whether a statement failed because the database was closed, which is no value's fault."""
    cause = error.orig if isinstance(error, exc.DBAPIError) else error
    return str(cause) == _CLOSED


def driver(connection: Connection) -> sqlite3.Connection:
    """What `connection` is a facade of; what runs on it is in the same transaction."""
    return cast(sqlite3.Connection, connection.connection.driver_connection)
