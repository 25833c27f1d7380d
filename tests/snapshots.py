"""What tests of snapshots share: a log in a database, a snapshot of it, and loading one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from sqlalchemy import Connection, Engine

from cluster.log import changelog
from cluster.log.changes import Change, encode
from cluster.log.epochs import Trust
from cluster.log.merkle import Frontier
from cluster.log.snapshot import unpack
from cluster.state import schema
from cluster.state.apply import apply, digest
from cluster.state.database import open_engine, writing
from cluster.state.rows import Touched
from cluster.state.rowstream import StateDigest, blocks
from primary.snapshotfiles import Maker, Snapshot
from replica.loading import Loader
from tests.fakes import SIGNER, TIME, TRUST


def record(connection: Connection, changes: Sequence[Change]) -> Frontier:
    """Append changes as the writer does."""
    frontier = changelog.frontier(connection)
    made = []
    for serial, change in enumerate(changes, start=frontier.size + 1):
        made.append(encode(change, serial=serial, epoch=1, time=TIME, actor="root"))
        apply(connection, made[-1], Touched())
    return changelog.append(connection, frontier, made)


def record_all(engine: Engine, changes: Sequence[Change]) -> None:
    """As `record`, in a transaction of its own."""
    with writing(engine) as connection:
        record(connection, changes)


def make(engine: Engine, root: Path) -> Snapshot:
    """A snapshot of what is in a database."""
    return Maker(root, SIGNER, lambda: False).make(engine)


def load(
    snapshot: Snapshot, path: Path, at: Frontier | None = None, trust: Trust = TRUST
) -> set[str]:
    """Load a snapshot into a new database file, as a replica does that was at `at`."""
    loader = Loader(path, snapshot.manifest)
    loader.open()
    try:
        for number, chunk in enumerate(snapshot.manifest.chunks):
            loader.load(chunk, unpack(chunk, snapshot.chunk_path(number).read_bytes()))
        return loader.finish(trust, at or Frontier())
    finally:
        loader.close()


def state_digest(connection: Connection) -> str:
    """The digest (hex) of the rows in a database."""
    total = StateDigest()
    for table in schema.TABLES:
        for block, _ in blocks(connection, table):
            total.add(table.name, block)
    return total.whole()


def opened(path: Path) -> Engine:
    """A database file as a node opens it."""
    return open_engine(path, changelog.metadata, schema.metadata, durable=False)


Facts = tuple[str, Frontier, list[tuple[int, int, bytes]]]


def facts(engine: Engine) -> Facts:
    """All that two nodes at one serial have in common: rows, frontier, tiles."""
    with engine.begin() as connection:
        tiles = connection.execute(changelog.tiles.select().order_by("level", "number")).all()
        return digest(connection), changelog.frontier(connection), [tuple(t) for t in tiles]
