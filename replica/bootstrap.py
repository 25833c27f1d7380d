"""Starting from a snapshot: a replica that has nothing, or less than the primary's log still has.

Order: list → manifest checked → chunks, each kept when its digest is right, and loaded into a
fresh database file while others come → the file checked → node-only blobs → the new file takes the
old one's place → the log is followed from there. Until then the replica serves what it has. Chunks
that are here survive a crash and a restart; the file is loaded anew.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

from attrs import define, frozen
from twisted.internet.defer import CancelledError, Deferred, FirstError, gatherResults
from twisted.logger import Logger

from cluster.clock import Clock, pause
from cluster.errors import LogError, UnknownFormat
from cluster.log.epochs import Start, Trust
from cluster.log.merkle import Frontier
from cluster.log.snapshot import (
    CHUNK_LIMIT,
    MANIFEST_LIMIT,
    Manifest,
    open_manifest,
)
from cluster.protocol import (
    SNAPSHOT_FROM_ENTRIES,
    SNAPSHOT_PATH,
    SNAPSHOTS_PATH,
    log_origin,
)
from cluster.state import schema
from cluster.state.database import Database
from cluster.state.position import Head
from cluster.threads import Runner
from replica.following import Diverged, Unreachable
from replica.loading import (
    Loader,
    has_chunk,
    keep_chunk,
    put_in_place,
    remove_old,
    unpacked_chunk,
)
from replica.primary_client import Answer, PrimaryClient
from replica.secretsync import SecretSync

FOLDER: Final = "bootstrap"
_PARALLEL: Final = 2
_CHUNK_SECONDS = 120.0
_LIST_BYTES = 1 << 20
# To give up means to load all rows again.
_CHUNK_RETRIES: Final = 2
_RETRY_SECONDS = 1.0
_LONGEST_RETRY_SECONDS = 60.0


@frozen
class Started:
    """Where following goes on."""

    frontier: Frontier
    head: Head


@define
class Progress:
    """How far a bootstrap is; `rows` counts what was loaded."""

    manifest: Manifest
    phase: str = "loading"
    chunks: int = 0
    rows: int = 0
    abandoned: bool = False
    """Whether nobody waits for this any more: no chunk is asked for again."""

    def document(self) -> dict[str, Any]:
        """As the status shows it."""
        return {
            "serial": self.manifest.serial, "phase": self.phase, "chunks": self.chunks,
            "chunks_total": len(self.manifest.chunks), "rows": self.rows,
            "rows_total": self.manifest.rows,
        }  # fmt: skip


@define(eq=False)
class Bootstrap:
    """Brings a snapshot into the place of the replica's database, when one is needed."""

    _log = Logger()

    _client: PrimaryClient
    _database: Database
    _heavy: Runner
    _state_dir: Path
    _secrets: SecretSync
    _clock: Clock
    progress: Progress | None = None
    _demanded: bool = False
    _extending: Frontier | None = None
    _looked: bool = False

    @property
    def _folder(self) -> Path:
        return self._state_dir / FOLDER

    def demand(self, extending: Frontier | None = None) -> None:
        """Nothing but a snapshot helps any more: the primary's log begins behind our position.

        `extending` is what its log must continue, if that is less than what is here.
        """
        self._demanded, self._extending = True, extending

    @property
    def goes_back(self) -> bool:
        """Whether the snapshot need not continue all that is here."""
        return self._extending is not None

    def document(self) -> dict[str, Any] | None:
        """The `bootstrap` part of the status; None while there is nothing to tell."""
        return None if self.progress is None else self.progress.document()

    async def is_due(self, at: Frontier) -> bool:
        """Whether to start from a snapshot instead of following from `at`.

        Raises Unreachable, NotAdmitted.
        """
        if self._demanded:
            return True
        if at.size == 0:
            return await self._newest(0) is not None
        if not self._looked:
            self._looked = True
            await self._heavy.run(self._tidy)
        return False

    def _tidy(self) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)
        remove_old(self._state_dir)

    async def run(self, trust: Trust, at: Frontier, later: Sequence[Start]) -> Started:
        """Start from a snapshot whose log continues the one at `at`, and that the owner of the
        last of the epochs `later` signed, which are proven.

        Raises Unreachable, NotAdmitted, Diverged, LogError, UnknownFormat; nothing has changed
        then but the chunks that are here.
        """
        try:
            return await self._run(trust, self._extending or at, later)
        finally:
            self.progress = None

    async def _run(self, trust: Trust, at: Frontier, later: Sequence[Start]) -> Started:
        serial = await self._newest(at.size)
        if serial is None:
            # Ask for entries again: who said that they are gone may have been wrong, and another
            # candidate may have them.
            self._demanded, self._extending = False, None
            raise Unreachable(f"{self._client.url} has no snapshot for us yet")
        manifest, folder = await self._manifest(serial, trust)
        if manifest.epoch < max((start.epoch for start in later), default=0):
            raise LogError(f"the snapshot at serial {serial} is of an epoch that is over")
        progress = self.progress = Progress(manifest)
        self._log.info("starting from the snapshot at serial {serial}: {chunks} chunks, {size} "
                       "bytes", serial=serial, chunks=len(manifest.chunks),
                       size=manifest.size)  # fmt: skip
        loader = Loader(folder / "loading.sqlite", manifest)
        names = await self._bring(loader, folder, progress, trust, at)
        await self._secrets.fetch(await self._heavy.run(self._secrets.lacking, names))
        await self._database.writer.run(
            put_in_place, loader.path, self._state_dir, self._database.engine
        )
        self._demanded, self._extending, self._looked = False, None, True
        self._log.info("started from the snapshot at serial {serial}", serial=serial)
        await self._heavy.run(shutil.rmtree, self._folder, True)
        head = Head(manifest.serial, manifest.epoch, manifest.root, manifest.time)
        return Started(manifest.frontier, head)

    async def _newest(self, least: int) -> int | None:
        """The serial of the snapshot to take; None when there is none that helps."""
        answer = await self._client.ask(
            "GET", SNAPSHOTS_PATH, self._client.headers(), limit_bytes=_LIST_BYTES
        )
        if answer.status == 404:
            return None  # a primary of an older version has none
        self._client.expect_ok(answer)
        listed = _listed(answer)
        usable = [one["serial"] for one in listed if one["schema"] == schema.VERSION]
        if listed and not usable and self._demanded:
            raise UnknownFormat("the primary's snapshots are of another version: upgrade both")
        floor = max(least, 1 if self._demanded else SNAPSHOT_FROM_ENTRIES)
        usable = [serial for serial in usable if serial >= floor]
        begun = [s for s in usable if any(self._folder.glob(f"{s}-*"))]
        return max(begun or usable, default=None)

    async def _manifest(self, serial: int, trust: Trust) -> tuple[Manifest, Path]:
        answer = await self._ask(f"{SNAPSHOT_PATH}/{serial}/manifest", MANIFEST_LIMIT)
        manifest = open_manifest(answer.body, log_origin(trust.log), trust)
        if manifest.serial != serial or manifest.schema != schema.VERSION:
            raise LogError(f"the manifest for serial {serial} is of another snapshot")
        folder = self._folder / f"{serial}-{sha256(answer.body).hexdigest()[:16]}"
        await self._heavy.run(self._prepare, folder)
        return manifest, folder

    def _prepare(self, folder: Path) -> None:
        self._folder.mkdir(mode=0o700, exist_ok=True)
        for other in self._folder.iterdir():
            if other != folder:
                shutil.rmtree(other)
        folder.mkdir(exist_ok=True)

    async def _ask(self, path: str, limit_bytes: int) -> Answer:
        answer = await self._client.ask(
            "GET", path, self._client.headers(), limit_bytes=limit_bytes, seconds=_CHUNK_SECONDS
        )
        if answer.status == 410:
            raise _Gone(f"{self._client.url} does not have that snapshot any more")
        self._client.expect_ok(answer)
        return answer

    async def _bring(
        self, loader: Loader, folder: Path, progress: Progress, trust: Trust, at: Frontier
    ) -> set[str]:
        """Fetch and load at the same time; the names of the node-only blobs that are needed."""
        here: list[Deferred[None]] = [Deferred() for _ in progress.manifest.chunks]
        numbers = iter(range(len(here)))
        loading = Deferred.fromCoroutine(self._load(loader, folder, progress, here, trust, at))
        running: list[Deferred[Any]] = [loading]
        for _ in range(_PARALLEL):
            fetching = self._fetch_all(numbers, folder, progress, here)
            running.append(Deferred.fromCoroutine(fetching))
        try:
            await gatherResults(running, consumeErrors=True)
            return await loading
        except FirstError as error:
            progress.abandoned = True
            _cancel(*running)
            if error.index == 0 and error.subFailure.check(LogError, Diverged):
                # What was signed does not hold together: perhaps the next one does.
                await self._heavy.run(shutil.rmtree, folder, True)
            error.subFailure.raiseException()
        finally:
            _cancel(*running)

    async def _fetch_all(
        self, numbers: Iterator[int], folder: Path, progress: Progress, here: list[Deferred[None]]
    ) -> None:
        manifest, total = progress.manifest, len(here)
        for number in numbers:
            if not await self._heavy.run(has_chunk, folder, manifest, number):
                body = await self._chunk(progress, number)
                await self._heavy.run(keep_chunk, folder, manifest, number, body)
            here[number].callback(None)
            progress.chunks += 1
            if progress.chunks * 10 // total > (progress.chunks - 1) * 10 // total:
                self._log.info("bootstrapping: {done} of {total} chunks are here",
                               done=progress.chunks, total=total)  # fmt: skip

    async def _chunk(self, progress: Progress, number: int) -> bytes:
        path = f"{SNAPSHOT_PATH}/{progress.manifest.serial}/{number}"
        for _ in range(_CHUNK_RETRIES):
            try:
                return (await self._ask(path, CHUNK_LIMIT)).body
            except Unreachable as error:
                # A request that was cancelled ends so too.
                if isinstance(error, _Gone) or progress.abandoned:
                    raise
                asked = min(error.retry_after_seconds, _LONGEST_RETRY_SECONDS)
                await pause(self._clock, max(_RETRY_SECONDS, asked))
        return (await self._ask(path, CHUNK_LIMIT)).body

    async def _load(
        self, loader: Loader, folder: Path, progress: Progress, here: list[Deferred[None]],
        trust: Trust, at: Frontier,
    ) -> set[str]:  # fmt: skip
        try:
            await self._heavy.run(loader.open)
            await self._load_all(loader, folder, progress, here)
            progress.phase = "verifying"
            self._log.info("bootstrapping: all rows are loaded, making their indexes")
            return await self._heavy.run(loader.finish, trust, at)
        except CancelledError:
            progress.abandoned = True
            raise
        finally:
            await self._heavy.run(loader.close)

    async def _load_all(
        self, loader: Loader, folder: Path, progress: Progress, here: list[Deferred[None]]
    ) -> None:
        chunks = progress.manifest.chunks

        async def unpacked(number: int) -> bytes:
            await here[number]
            return await self._heavy.run(unpacked_chunk, folder, chunks[number], number)

        # One ahead: the next is decompressed beside SQLite's work, which needs no Python.
        coming = Deferred.fromCoroutine(unpacked(0))
        try:
            for number, chunk in enumerate(chunks):
                raw = await coming
                if number + 1 < len(chunks):
                    coming = Deferred.fromCoroutine(unpacked(number + 1))
                await self._heavy.run(loader.load, chunk, raw)
                progress.rows += chunk.rows if chunk.table in _TABLES else 0
        finally:
            _cancel(coming)


class _Gone(Unreachable):
    """The snapshot is not there any more: to ask again does not help."""


_TABLES = frozenset(table.name for table in schema.TABLES)


def _cancel(*running: Deferred[Any]) -> None:
    for one in running:
        one.addErrback(lambda _: None)  # nobody asks any more why it failed
        one.cancel()


def _listed(answer: Answer) -> list[dict[str, int]]:
    """The snapshots of a list; raises LogError."""
    try:
        return [
            {"serial": int(one["serial"]), "schema": int(one["schema"])}
            for one in answer.json()["snapshots"]
        ]
    except (KeyError, TypeError, ValueError) as error:
        raise LogError(f"that is not a list of snapshots: {error!r}") from None
