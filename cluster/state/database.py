"""One database file: one writer thread, a few reader threads, nothing on the reactor."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from attrs import define
from sqlalchemy import Connection, Engine, MetaData, create_engine, event

from cluster.errors import DiskRefused
from cluster.log.driver import STORE_ERRORS, disk_error, driver
from cluster.state.wal import WriteAheadLog
from cluster.threads import Runner

T = TypeVar("T")

_READ_CACHE_KIB = 1_024
_BUSY_MILLISECONDS = 30_000


def open_engine(path: Path, *schemas: MetaData, durable: bool = True) -> Engine:
    """Open or create a SQLite database in WAL mode and make what tables are missing.

    `durable` fsyncs each commit (``synchronous=FULL``): what is acknowledged survives a power
    cut. Without it a power cut may lose the last commits, never the file's consistency.
    """
    engine = create_engine(f"sqlite:///{path}", connect_args={"check_same_thread": False})

    @event.listens_for(engine, "connect")
    def _connected(connection: Any, _: object) -> None:
        # pysqlite's own BEGIN comes too late for a consistent read and breaks SAVEPOINT.
        connection.isolation_level = None
        for pragma in (
            "journal_mode=WAL",
            f"synchronous={'FULL' if durable else 'NORMAL'}",
            f"busy_timeout={_BUSY_MILLISECONDS}",
            f"cache_size=-{_READ_CACHE_KIB}",
        ):
            connection.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def _begun(connection: Connection) -> None:
        mode = connection.get_execution_options().get("begin", "BEGIN")
        driver(connection).execute(str(mode))

    with engine.begin() as connection:
        for schema in schemas:
            schema.create_all(connection)
    return engine


@contextmanager
def writing(engine: Engine) -> Iterator[Connection]:
    """A write transaction; the lock is taken at its start, so it never fails half way."""
    with engine.connect() as connection:
        connection.execution_options(begin="BEGIN IMMEDIATE")
        with connection.begin():
            yield connection


@contextmanager
def refused_by_disk(path: Path) -> Iterator[None]:
    """Make DiskRefused of what SQLite says when the disk of the database at `path` fails."""
    try:
        yield
    except STORE_ERRORS as error:
        said = disk_error(error)
        if said is None:
            raise
        # Not SQLAlchemy's own text: that holds the statement and its parameters.
        raise DiskRefused(f"{path.name} cannot be written: {said}") from error


@define
class Database:
    """An engine and the threads that may use it.

    `wal` is the write-ahead log of a database that does not fsync its commits.
    """

    engine: Engine
    writer: Runner
    readers: Runner
    wal: WriteAheadLog | None = None

    async def read(self, question: Callable[[Connection], T]) -> T:
        """Ask a question of one consistent snapshot."""

        def ask() -> T:
            with self.engine.begin() as connection:
                return question(connection)

        return await self.readers.run(ask)

    async def write(self, work: Callable[[Connection], T]) -> T:
        """Do work in one transaction on the writer thread; it is durable when this returns, or,
        if the commits are not fsynced, after `make_durable`.

        Raises what `work` raises, and DiskRefused.
        """

        def do() -> T:
            path = Path(self.engine.url.database or "")
            with refused_by_disk(path), writing(self.engine) as connection:
                return work(connection)

        return await self.writer.run(do)

    async def make_durable(self) -> None:
        """Wait until all that was committed before survives a power cut; raises NotDurable."""
        if self.wal is not None:
            await self.writer.run(self.wal.sync)

    def close(self) -> None:
        """Let the files go; nobody may be using them."""
        self.engine.dispose()
        if self.wal is not None:
            self.wal.close()
