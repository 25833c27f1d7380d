"""Snapshots on the primary's disk: writing one out of the database, and what is there.

A folder `snapshots/<serial>/` is whole or absent: it is written under another name, and the
manifest is durable before the rename. Blocking, all of it: for a thread of its own.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from attrs import define, field, frozen
from sqlalchemy import Connection, Engine
from twisted.logger import Logger

from cluster.durable import sync_folder, write_durably
from cluster.errors import LogError, PymirrorError
from cluster.log import changelog
from cluster.log.checkpoint import LogSigner
from cluster.log.epochs import Trust
from cluster.log.merkle import TILE_WIDTH, Frontier
from cluster.log.snapshot import (
    CHUNK_BYTES,
    LEAVES,
    Chunk,
    Manifest,
    open_manifest,
    pack,
    sign_manifest,
)
from cluster.state import queries, schema
from cluster.state.rowstream import StateDigest, blocks

MANIFEST: Final = "manifest"
_MAKING: Final = ".making"
_LEAF_TILES = CHUNK_BYTES // (32 * TILE_WIDTH)

_log = Logger()


class Abandoned(PymirrorError):
    """The node is going down: the snapshot that was being made is not kept."""


@frozen
class Snapshot:
    """A snapshot on disk."""

    folder: Path
    manifest: Manifest

    @property
    def serial(self) -> int:
        """The log's size at which it was made."""
        return self.manifest.serial

    def chunk_path(self, number: int) -> Path:
        """The file of a chunk, numbered from 0."""
        return self.folder / f"{number:05}"


def existing(root: Path, signer: LogSigner, trust: Trust, connection: Connection) -> list[Snapshot]:
    """The snapshots of this log that are on disk, oldest first; whatever else is there goes."""
    root.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = []
    for folder in root.iterdir():
        try:
            manifest = open_manifest((folder / MANIFEST).read_bytes(), signer.name, trust)
            if _is_current(manifest, connection):
                found.append(Snapshot(folder, manifest))
                continue
        except (OSError, LogError) as error:
            _log.info("{folder} is no snapshot of this log: {error}",
                      folder=str(folder), error=str(error))  # fmt: skip
        shutil.rmtree(folder, ignore_errors=True)
    return sorted(found, key=lambda snapshot: snapshot.serial)


def _is_current(manifest: Manifest, connection: Connection) -> bool:
    # After a failover, or a restore, a snapshot may be of another history than the log here.
    if manifest.serial > changelog.size(connection) or manifest.schema != schema.VERSION:
        return False
    epoch = queries.epoch(connection)
    same_owner = epoch is not None and manifest.epoch == epoch.epoch
    return same_owner and changelog.frontier(connection, manifest.serial) == manifest.frontier


@define
class Maker:
    """Writes one snapshot; `stopping` is asked often whether to give up."""

    root: Path
    signer: LogSigner
    stopping: Callable[[], bool]
    _chunks: list[Chunk] = field(factory=list)
    _worked_until: float = 0.0

    @property
    def _folder(self) -> Path:
        return self.root / _MAKING

    def make(self, engine: Engine) -> Snapshot:
        """A snapshot of what is committed now, from one read transaction, so that no writer waits.

        Raises Abandoned.
        """
        shutil.rmtree(self._folder, ignore_errors=True)
        self._folder.mkdir(mode=0o700, parents=True)
        self._worked_until = time.thread_time()
        with engine.begin() as connection:
            epoch = queries.epoch(connection)
            frontier = changelog.frontier(connection)
            if epoch is None:
                raise LogError("the log has no epoch")
            self._write_leaves(connection, frontier)
            state = self._write_state(connection)
            manifest = Manifest(
                epoch.log, epoch.epoch, frontier.size, frontier.root, frontier,
                queries.head_time(connection), schema.VERSION, state, queries.starts(connection),
                self._chunks,
            )  # fmt: skip
        return self._publish(manifest)

    def _publish(self, manifest: Manifest) -> Snapshot:
        write_durably(self._folder / MANIFEST, sign_manifest(manifest, self.signer))
        folder = self.root / str(manifest.serial)
        shutil.rmtree(folder, ignore_errors=True)
        os.rename(self._folder, folder)
        sync_folder(self.root)
        return Snapshot(folder, manifest)

    def _write_leaves(self, connection: Connection, frontier: Frontier) -> None:
        for first in range(0, frontier.size, _LEAF_TILES * TILE_WIDTH):
            end = min(first + _LEAF_TILES * TILE_WIDTH, frontier.size)
            tiles = range(first // TILE_WIDTH, -(-end // TILE_WIDTH))
            data = b"".join(changelog.tile(connection, 0, number) for number in tiles)
            self._write(LEAVES, len(data) // 32, data)

    def _write_state(self, connection: Connection) -> str:
        digest = StateDigest()
        for table in schema.TABLES:
            for raw, rows in _gathered(blocks(connection, table)):
                digest.add(table.name, raw)
                self._write(table.name, rows, raw)
        return digest.whole()

    def _write(self, table: str, rows: int, raw: bytes) -> None:
        if self.stopping():
            raise Abandoned("the snapshot is not made: this node is going down")
        chunk, packed = pack(table, rows, raw)
        with (self._folder / f"{len(self._chunks):05}").open("wb") as file:
            file.write(packed)
            file.flush()
            os.fsync(file.fileno())
        self._chunks.append(chunk)
        # Half of the time is others': rows become bytes under Python's one lock.
        time.sleep(min(1.0, time.thread_time() - self._worked_until))
        self._worked_until = time.thread_time()


def _gathered(parts: Iterator[tuple[bytes, int]]) -> Iterator[tuple[bytes, int]]:
    """Blocks of rows put together to chunks."""
    kept: list[bytes] = []
    size = rows = 0
    for raw, count in parts:
        kept.append(raw)
        size, rows = size + len(raw), rows + count
        if size >= CHUNK_BYTES:
            yield b"".join(kept), rows
            kept, size, rows = [], 0, 0
    if kept:
        yield b"".join(kept), rows
