"""When snapshots are made, which are kept, and how replicas get them.

The primary makes one by itself: the first when the log is long enough that a fresh replica is
better off with it, another one whenever the log has grown by `every` entries (or by a twentieth:
what one costs grows with the state). Two are kept, so that a replica which is loading the older
one can finish.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from attrs import define, field
from klein import Klein
from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from cluster.auth.acl import ROOT
from cluster.clock import Clock, Delayed
from cluster.errors import (
    AuthenticationRequired,
    Forbidden,
    Gone,
    InvalidRequest,
    PymirrorError,
)
from cluster.log import changelog
from cluster.log.checkpoint import LogSigner
from cluster.log.driver import disk_error
from cluster.log.epochs import Trust
from cluster.protocol import SNAPSHOT_FROM_ENTRIES, SNAPSHOT_PATH, SNAPSHOTS_PATH
from cluster.singleflight import SingleFlight
from cluster.state import schema
from cluster.state.database import Database
from cluster.state.position import Head, Position
from cluster.state.rows import Touched
from cluster.threads import Threads
from cluster.web.identity import Identity
from cluster.web.replies import Reply, json_reply
from cluster.web.request import NodeRequest
from cluster.web.routes import answering
from primary.snapshotfiles import MANIFEST, Abandoned, Maker, Snapshot, existing

KEPT: Final = 2
DEFAULT_EVERY: Final = 50_000
_RETRY_SECONDS = 60.0
_NO_STORE = {"Cache-Control": "no-store"}


@define(eq=False)
class Snapshots:
    """The snapshots of a primary; `every` is in entries, 0 for none but those asked for.

    `require_owner` raises when somebody else owns the log by now; `made` is called after each
    new one, on the reactor.
    """

    _log = Logger()

    _database: Database
    _position: Position
    _identity: Identity
    _signer: LogSigner
    _trust: Trust
    _root: Path
    _thread: Threads
    _clock: Clock
    every: int
    _require_owner: Callable[[], object]
    made: Callable[[], None] = lambda: None
    kept: list[Snapshot] = field(factory=list)
    minimum: int = 0
    error: str | None = None
    """Why the last one could not be made."""
    compaction_error: str | None = None
    """Why old entries could not be removed when that was tried last."""
    _making: SingleFlight[None, Snapshot] = field(factory=SingleFlight)
    _retry: Delayed | None = None
    _busy: bool = False
    _stopping: bool = False

    async def start(self) -> None:
        """Look what is on disk, and make the first one if it is due."""
        self._thread.start()
        self.kept = await self._thread.run(self._look)
        self._position.listen(self._committed)
        self._consider()

    def _look(self) -> list[Snapshot]:
        with self._database.engine.begin() as connection:
            self.minimum = changelog.minimum(connection)
            return existing(self._root, self._signer, self._trust, connection)

    def stop(self) -> None:
        """Give up what is being made, and make no more."""
        self._stopping = True
        if self._retry is not None and self._retry.active():
            self._retry.cancel()
        self._thread.stop()

    @property
    def usable(self) -> list[Snapshot]:
        """Those of this program's tables: a node of another version made the others."""
        return [one for one in self.kept if one.manifest.schema == schema.VERSION]

    @property
    def newest(self) -> int | None:
        """The serial of the newest usable one."""
        return max((one.serial for one in self.usable), default=None)

    @property
    def is_due(self) -> bool:
        """Whether one should be made now."""
        newest, serial = self.newest, self._position.serial
        if newest is None:
            # A log that does not begin at its beginning cannot be followed without one.
            return self.minimum > 0 or (self.every > 0 and serial >= min(
                SNAPSHOT_FROM_ENTRIES, self.every
            ))  # fmt: skip
        return self.every > 0 and serial - newest >= max(self.every, newest // 20)

    def _committed(self, head: Head, touched: Touched) -> None:
        self._consider()

    def _consider(self) -> None:
        if self.is_due and not self._busy and not self._stopping:
            self._busy = True
            Deferred.fromCoroutine(self.make()).addCallbacks(self._done, self._failed)

    def _done(self, _: Snapshot) -> None:
        # What was committed meanwhile found this busy, and nothing may be committed for long.
        self._again()

    def _tell(self, failure: Failure) -> None:
        if failure.check(Abandoned) is None:
            self._log.failure("making a snapshot failed", failure)
            self.error = reason(failure.value)

    def _failed(self, failure: Failure) -> None:
        self._tell(failure)
        if not self._stopping:
            self._retry = self._clock.callLater(_RETRY_SECONDS, self._again)

    def _again(self) -> None:
        self._busy = False
        self._consider()

    async def make(self) -> Snapshot:
        """Make a snapshot now, or join the making of one."""
        return await self._making.run(None, self._make)

    async def _make(self) -> Snapshot:
        start, self.error = self._clock.seconds(), None
        for one in self.usable:
            if one.serial == self._position.serial:
                return one
        maker = Maker(self._root, self._signer, lambda: self._stopping)
        snapshot = await self._thread.run(maker.make, self._database.engine)
        self._log.info(
            "made a snapshot at serial {serial}: {size} bytes in {seconds} s",
            serial=snapshot.serial, size=snapshot.manifest.size,
            seconds=round(self._clock.seconds() - start, 1),
        )  # fmt: skip
        before = [old for old in self.kept if old.serial != snapshot.serial] + [snapshot]
        self.kept, gone = before[-KEPT:], before[:-KEPT]
        for old in gone:
            await self._thread.run(shutil.rmtree, old.folder, True)
        self.made()
        return snapshot

    def document(self) -> dict[str, Any]:
        """The list of snapshots, newest last, and the log's minimum."""
        return {
            "minimum": self.minimum,
            "snapshots": [
                {
                    "serial": one.serial, "epoch": one.manifest.epoch, "time": one.manifest.time,
                    "bytes": one.manifest.size, "chunks": len(one.manifest.chunks),
                    "rows": one.manifest.rows, "schema": one.manifest.schema,
                }
                for one in self.kept
            ],
            "snapshot_error": self.error,
            "compaction_error": self.compaction_error,
        }  # fmt: skip

    def listing(self, request: NodeRequest) -> Reply:
        """`GET /+log/snapshots`."""
        self._identity.require_node(request)
        self._require_owner()
        return json_reply(self.document(), headers=_NO_STORE)

    async def create(self, request: NodeRequest) -> Reply:
        """`POST /+log/snapshots`: root has one made; the list tells when."""
        who = await self._identity.user(request)
        if who.name is None:
            raise AuthenticationRequired("only root may have a snapshot made")
        if who.name != ROOT or who.token is not None:
            raise Forbidden("only root may have a snapshot made")
        self._require_owner()
        serial = self._position.serial
        Deferred.fromCoroutine(self.make()).addErrback(self._tell)
        return json_reply({"serial": serial, **self.document()}, 202, _NO_STORE)

    async def manifest(self, request: NodeRequest, serial: str) -> Reply:
        """`GET /+log/snapshot/<serial>/manifest`."""
        return await self._file(request, serial, lambda one: one.folder / MANIFEST)

    async def chunk(self, request: NodeRequest, serial: str, number: str) -> Reply:
        """`GET /+log/snapshot/<serial>/<n>`: one chunk, as it is on disk."""
        if not number.isdecimal() or len(number) > 9:
            raise InvalidRequest("a chunk is named by its number")
        return await self._file(request, serial, lambda one: one.chunk_path(int(number)))

    async def _file(
        self, request: NodeRequest, serial: str, path: Callable[[Snapshot], Path]
    ) -> Reply:
        self._identity.require_node(request)
        snapshot = next((one for one in self.kept if str(one.serial) == serial), None)
        if snapshot is None:
            raise Gone(f"there is no snapshot at serial {serial[:20]} (any more)")
        try:
            data = await self._database.readers.run(path(snapshot).read_bytes)
        except FileNotFoundError:
            raise Gone(f"the snapshot at serial {serial} does not have that") from None
        return Reply(200, data, "application/octet-stream", _NO_STORE)


def reason(error: BaseException | None) -> str:
    """Why something failed, for a status that anybody may read: nothing of paths or statements."""
    if isinstance(error, PymirrorError):
        return str(error)
    said = error.strerror if isinstance(error, OSError) else disk_error(error)
    return said or "see this node's log"


def add_routes(app: Klein) -> None:
    """Register what replicas ask for, and root."""
    path = f"{SNAPSHOT_PATH}/<serial>"
    app.route(SNAPSHOTS_PATH, methods=["GET"])(answering(_listing))
    app.route(SNAPSHOTS_PATH, methods=["POST"])(answering(_create))
    app.route(f"{path}/manifest", methods=["GET"])(answering(_manifest))
    app.route(f"{path}/<number>", methods=["GET"])(answering(_chunk))


async def _listing(web: Any, request: NodeRequest) -> Reply:
    return _of(web).listing(request)


async def _create(web: Any, request: NodeRequest) -> Reply:
    return await _of(web).create(request)


async def _manifest(web: Any, request: NodeRequest, serial: str) -> Reply:
    return await _of(web).manifest(request, serial)


async def _chunk(web: Any, request: NodeRequest, serial: str, number: str) -> Reply:
    return await _of(web).chunk(request, serial, number)


def _of(web: Any) -> Snapshots:
    snapshots: Snapshots = web.snapshots
    return snapshots
