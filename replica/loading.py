"""A snapshot's chunks made into a database file, checked, and put in the place of the old one.

The file is written without a journal: a crash on the way leaves rubbish, which is thrown away,
and the chunks, which are verified and loaded again. `log.sqlite` becomes a symbolic link to the
new file: replacing a link is atomic, and who still reads the old file, with its own write-ahead
log beside it, goes on undisturbed. Blocking, all of it: for a thread.
"""

from __future__ import annotations

import os
import secrets
from pathlib import Path
from threading import Lock
from typing import Any

import orjson
from attrs import define, field
from sqlalchemy import Connection, Engine, event, select

from cluster.durable import TEMPORARY_SUFFIX, sync_folder
from cluster.errors import LogError
from cluster.log import changelog
from cluster.log.epochs import Trust
from cluster.log.merkle import Frontier
from cluster.log.snapshot import LEAVES, Chunk, Manifest, is_whole, leaves_of, unpack
from cluster.state import queries, schema
from cluster.state.database import open_engine, refused_by_disk
from cluster.state.rowstream import StateDigest, insert_rows
from replica.following import Diverged

DATABASE = "log.sqlite"
_PRAGMAS = ("journal_mode=OFF", "synchronous=OFF", "cache_size=-8192")


@define
class Loader:
    """Fills a fresh database file at `path`, chunk by chunk."""

    path: Path
    manifest: Manifest
    _engine: Engine = field(init=False)
    _connection: Connection = field(init=False)
    _state: StateDigest = field(factory=StateDigest)
    _leaves: int = 0
    _opened: bool = False
    _closed: bool = False
    # A thread goes on for a while after the Deferred of its work was cancelled.
    _busy: Lock = field(factory=Lock)

    def open(self) -> None:
        """Begin with an empty file, whatever was there; not at all once it was closed.

        This and what follows raise DiskRefused when the disk does not take it.
        """
        with self._busy, refused_by_disk(self.path):
            if not self._closed:
                self._open()

    def _open(self) -> None:
        for suffix in ("", "-wal", "-shm", "-journal"):
            self.path.with_name(self.path.name + suffix).unlink(missing_ok=True)
        self._engine = open_engine(self.path, changelog.metadata, schema.metadata, durable=False)
        self._connection = self._engine.connect()
        self._opened = True
        for pragma in _PRAGMAS:  # before a transaction begins
            self._connection.connection.driver_connection.execute(f"PRAGMA {pragma}")  # type: ignore[union-attr]
        # One transaction, to the end: nobody else looks, and a commit would write each time the
        # pages that the next chunk changes again.
        self._connection.begin()
        for table in schema.TABLES:
            for index in table.indexes:
                index.drop(self._connection)

    def load(self, chunk: Chunk, raw: bytes) -> None:
        """Add one chunk's content, in the manifest's order; raises LogError."""
        with self._busy, refused_by_disk(self.path):
            if chunk.table == LEAVES:
                changelog.append_leaves(self._connection, self._leaves, leaves_of(chunk, raw))
                self._leaves += chunk.rows
                return
            # Not of what is in the table now, which would be to read all rows once more: these
            # lines were made of rows of the same table, so SQLite takes them as they are.
            self._state.add(chunk.table, raw)
            if insert_rows(self._connection, chunk.table, raw) != chunk.rows:
                raise LogError("a chunk does not have as many rows as its manifest says")

    def finish(self, trust: Trust, at: Frontier) -> set[str]:
        """Check that the file holds what was signed, and that its log continues the one at `at`.

        Returns the names of the node-only blobs that it names. Raises LogError, Diverged.
        """
        connection, manifest = self._connection, self.manifest
        with self._busy, refused_by_disk(self.path):
            for table in schema.TABLES:
                for index in table.indexes:
                    index.create(connection)
            if changelog.frontier(connection) != manifest.frontier:
                raise LogError("the leaf hashes of a snapshot do not have its root")
            if changelog.frontier(connection, min(at.size, manifest.serial)) != at:
                raise Diverged("what is here is not a beginning of the snapshot's log")
            _check_epochs(connection, manifest, trust)
            if self._state.whole() != manifest.state:
                raise LogError("the rows of a snapshot do not have its digest")
            names = _named_blobs(connection)
            connection.exec_driver_sql(f"PRAGMA user_version={schema.VERSION}")
            connection.commit()
        self.close()
        return names

    def close(self) -> None:
        """Let go of the file."""
        with self._busy:
            self._closed = True
            if self._opened:
                self._connection.close()
                self._engine.dispose()


def _check_epochs(connection: Connection, manifest: Manifest, trust: Trust) -> None:
    known = queries.all_epochs(connection)
    if not known or (known[0].log, known[0].key) != (trust.log, trust.key):
        raise LogError("the log of a snapshot does not begin with the identity that is known")
    if known[-1].epoch != manifest.epoch or queries.starts(connection) != list(manifest.starts):
        raise LogError("the epochs in a snapshot's rows are not those of its manifest")


def _named_blobs(connection: Connection) -> set[str]:
    bodies = connection.execute(select(schema.users.c.body)).scalars()
    passwords = {orjson.loads(body).get("password") for body in bodies}
    named = connection.execute(select(schema.indexes.c.secrets)).scalars()
    return {name for name in (*passwords, *named) if isinstance(name, str)}


def _chunk_path(folder: Path, number: int) -> Path:
    return folder / f"{number:05}"


def has_chunk(folder: Path, manifest: Manifest, number: int) -> bool:
    """Whether a chunk is here, and is what its manifest says."""
    try:
        packed = _chunk_path(folder, number).read_bytes()
    except FileNotFoundError:
        return False
    return is_whole(manifest.chunks[number], packed)


def keep_chunk(folder: Path, manifest: Manifest, number: int, packed: bytes) -> None:
    """Keep a chunk that came; raises LogError when it is not what its manifest says."""
    if not is_whole(manifest.chunks[number], packed):
        raise LogError(f"chunk {number} of a snapshot is not what its manifest says")
    # Not fsynced: what a power cut spoils has another digest then, and is fetched again.
    _chunk_path(folder, number).write_bytes(packed)


def unpacked_chunk(folder: Path, chunk: Chunk, number: int) -> bytes:
    """The content of a chunk that is here; raises LogError."""
    return unpack(chunk, _chunk_path(folder, number).read_bytes())


def put_in_place(loaded: Path, state_dir: Path, engine: Engine) -> None:
    """Make a loaded file the node's database. No transaction that writes may be under way.

    Order: the file is durable before the link names it; the link's replacement is the moment at
    which the node has the new state, before and after a crash.
    """
    place = state_dir / f"log-{secrets.token_hex(6)}.sqlite"
    with loaded.open("rb") as file:
        os.fsync(file.fileno())
    os.rename(loaded, place)
    sync_folder(state_dir)
    link = state_dir / f".{DATABASE}.{secrets.token_hex(4)}{TEMPORARY_SUFFIX}"
    link.symlink_to(place.name)
    os.replace(link, state_dir / DATABASE)
    sync_folder(state_dir)
    # New connections go to the new file; who reads the old one keeps his until he is done.
    replaced = engine.pool
    engine.dispose()
    # After that: the new pool is made with what listens to the old one.
    event.listen(replaced, "checkin", _close)
    replaced.dispose()  # what came back in between
    remove_old(state_dir)


def _close(connection: object, record: Any) -> None:
    record.invalidate()


def remove_old(state_dir: Path) -> None:
    """Delete database files that are not in use any more."""
    link = state_dir / DATABASE
    current = os.readlink(link) if link.is_symlink() else DATABASE
    for path in state_dir.glob("log*.sqlite*"):
        if not path.name.startswith(current) and path != link:
            path.unlink(missing_ok=True)
