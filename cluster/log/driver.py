"""The database driver's own connection, for statements that run a million times in a catch-up.

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
    exc.InterfaceError, exc.ProgrammingError, sqlite3.InterfaceError, sqlite3.ProgrammingError,
    OverflowError,
)  # fmt: skip
"""What it raises for a value that no column can hold."""


def driver(connection: Connection) -> sqlite3.Connection:
    """What `connection` is a facade of; what runs on it is in the same transaction."""
    return cast(sqlite3.Connection, connection.connection.driver_connection)
