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
_OF_THE_DISK: Final = frozenset({
    sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB,
})  # fmt: skip
_CLOSED: Final = "Cannot operate on a closed database."


def is_closed(error: Exception) -> bool:
    """Whether a statement failed because the database was closed, which is no value's fault."""
    cause = error.orig if isinstance(error, exc.DBAPIError) else error
    return str(cause) == _CLOSED


def disk_error(error: BaseException | None) -> str | None:
    """What a statement failed for if that was the disk's doing, in SQLite's words; else None."""
    cause = error.orig if isinstance(error, exc.DBAPIError) else error
    # The lower byte is the kind; above it are its details.
    code = getattr(cause, "sqlite_errorcode", 0) & 0xFF
    return str(cause) if code in _OF_THE_DISK else None


def driver(connection: Connection) -> sqlite3.Connection:
    """What `connection` is a facade of; what runs on it is in the same transaction."""
    return cast(sqlite3.Connection, connection.connection.driver_connection)
