"""Bootstrap over a real socket: whatever is sent, the state is the snapshot's or as before."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import orjson
import pytest
import pytest_twisted
from attrs import define, evolve, field
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from treq.client import HTTPClient

from cluster.agent import make_direct_agent
from cluster.auth.nodes import NodeSecret
from cluster.durable import SecretBlobs
from cluster.errors import LogError, PymirrorError, UnknownFormat
from cluster.log import changelog
from cluster.log.checkpoint import LogSigner
from cluster.log.epochs import Start
from cluster.log.merkle import Frontier
from cluster.log.snapshot import sign_manifest
from cluster.state.database import Database
from cluster.threads import Inline, Runner
from primary.snapshotfiles import MANIFEST, Snapshot
from replica.bootstrap import FOLDER, Bootstrap
from replica.following import Diverged, Unreachable
from replica.loading import Loader
from replica.primary_client import PrimaryClient
from replica.secretsync import SecretSync
from tests.fake_primary import SECRET, FakePrimary
from tests.fakes import NOW, SIGNER, START, TRUST, engine, user_set
from tests.file_servers import reactor
from tests.snapshots import facts, make, opened, record_all

NODE = "6a0e6d0e-2f5f-4f57-9f4d-5f0f4b7c9d11"
STRANGER = LogSigner(SIGNER.name, Ed25519PrivateKey.from_private_bytes(bytes(32)))

Change = Callable[[str, bytes], bytes | int]
"""What a hostile primary sends in the place of a file of a snapshot, by its last path segment:
other bytes, or a status.
"""


@define(eq=False)
class SnapshotPrimary(FakePrimary):
    """A primary with a snapshot on disk; `change` meddles with what it sends."""

    snapshot: Snapshot | None = None
    change: Change = lambda name, data: data
    sent: list[str] = field(factory=list)

    def _render(self, request: Any) -> None:
        name = request.path.decode().rpartition("/")[2]
        if not request.path.startswith(b"/+log/snapshot"):
            super()._render(request)
            return
        answer = self.change(name, self._honest(name))
        if isinstance(answer, int):
            request.setResponseCode(answer)
            answer = b"no"
        else:
            self.sent.append(name)
        self.send_body(request, answer, "application/octet-stream")

    def _honest(self, name: str) -> bytes:
        assert self.snapshot is not None
        if name == "snapshots":
            manifest = self.snapshot.manifest
            one = {"serial": manifest.serial, "schema": manifest.schema}
            return orjson.dumps({"minimum": 0, "snapshots": [one]})
        if name == "manifest":
            return (self.snapshot.folder / MANIFEST).read_bytes()
        return self.snapshot.chunk_path(int(name)).read_bytes()


class HastyClock:
    """Passes at once, and notes how long it was to wait."""

    def __init__(self) -> None:
        self.delays: list[float] = []

    def seconds(self) -> float:
        return 0.0

    def callLater(self, delay: float, f: Callable[..., object], *args: object) -> Any:
        self.delays.append(delay)
        return reactor.callLater(0, f, *args)


@define
class Site:
    """A replica that has two entries, and a primary with a snapshot at five."""

    primary: SnapshotPrimary
    folder: Path
    database: Database
    client: PrimaryClient
    at: Frontier
    clock: HastyClock = field(factory=HastyClock)

    def bootstrap(self, heavy: Runner | None = None) -> Bootstrap:
        """As a new process has it, told that nothing else helps."""
        blobs = SecretBlobs(self.folder / "secrets")
        made = Bootstrap(
            self.client, self.database, heavy or Inline(), self.folder,
            SecretSync(self.client, blobs, Inline()), self.clock,
        )  # fmt: skip
        made.demand()
        return made

    async def refused(self, error: type[Exception], at: Frontier | None = None) -> None:
        """A bootstrap fails with this error, and what the replica has is as before."""
        before = facts(self.database.engine)
        with pytest.raises(error):
            await self.bootstrap().run(TRUST, at or self.at, ())
        assert facts(self.database.engine) == before

    async def succeeds(self) -> None:
        """An honest primary's snapshot is what the replica has after it."""
        started = await self.bootstrap().run(TRUST, self.at, ())
        _, frontier, _ = facts(self.database.engine)
        assert started.frontier == frontier
        assert started.head.root == frontier.root
        assert (started.head.serial, started.head.epoch) == (5, 1)
        assert not (self.folder / FOLDER).exists()


@asynccontextmanager
async def site(folder: Path) -> AsyncIterator[Site]:
    changes = [START, *(user_set(name) for name in ("ann", "bob", "carl", "dan"))]
    with engine() as source:
        record_all(source, changes)
        snapshot = make(source, folder / "snapshots")
    own = opened(folder / "log.sqlite")
    record_all(own, changes[:2])
    with own.begin() as connection:
        at = changelog.frontier(connection)
    agent: Any = make_direct_agent(reactor)
    async with SnapshotPrimary(snapshot=snapshot).running() as primary:
        assert isinstance(primary, SnapshotPrimary)
        client = PrimaryClient(
            [primary.url], HTTPClient(agent), reactor, NodeSecret(SECRET, lambda: NOW), NODE,
            lambda: NOW,
        )  # fmt: skip
        try:
            yield Site(primary, folder, Database(own, Inline(), Inline()), client, at)
        finally:
            own.dispose()
            await agent._pool.closeCachedConnections()


def manifest_by(signer: LogSigner, **changed: Any) -> Callable[[Site], Change]:
    def meddle(it: Site) -> Change:
        assert it.primary.snapshot is not None
        raw = sign_manifest(evolve(it.primary.snapshot.manifest, **changed), signer)
        return lambda name, data: raw if name == "manifest" else data

    return meddle


def only(what: str, made: bytes | int | None = None) -> Callable[[Site], Change]:
    """Only one file is other: these bytes or status, or its own with the last byte flipped."""

    def change(name: str, data: bytes) -> bytes | int:
        if name != what:
            return data
        return data[:-1] + bytes([data[-1] ^ 1]) if made is None else made

    return lambda it: change


HOSTILE: dict[str, tuple[Callable[[Site], Change], type[PymirrorError]]] = {
    "other key": (manifest_by(STRANGER), LogError),
    "other serial": (manifest_by(SIGNER, time="x", serial=5, epoch=2), LogError),
    "other digest": (manifest_by(SIGNER, state="0" * 64), LogError),
    "other tables": (manifest_by(SIGNER, schema=1), LogError),
    "broken manifest": (only("manifest"), LogError),
    "no manifest": (only("manifest", b""), LogError),
    "manifest gone": (only("manifest", 410), Unreachable),
    "broken chunk": (only("1"), LogError),
    "chunk of another": (only("1", b"x"), LogError),
    "endless chunk": (only("1", bytes(30 << 20)), LogError),
    "chunk gone": (only("1", 410), Unreachable),
    "chunk not now": (only("1", 503), Unreachable),
    "no list": (only("snapshots", b"<html>"), LogError),
    "odd list": (only("snapshots", b'{"snapshots": [1]}'), LogError),
    "empty list": (only("snapshots", b'{"snapshots": []}'), Unreachable),
    "404": (only("snapshots", 404), Unreachable),
    "list of others": (only("snapshots", b'{"snapshots": [{"serial": 9, "schema": 1}]}'),
                       UnknownFormat),
}  # fmt: skip


@pytest.mark.parametrize("what", HOSTILE)
@pytest_twisted.ensureDeferred
async def test_hostile_snapshots_change_nothing(tmp_path: Path, what: str) -> None:
    """R11: what is here stays, the error has a name, and an honest primary ends it."""
    meddle, error = HOSTILE[what]
    async with site(tmp_path) as it:
        it.primary.change = meddle(it)
        await it.refused(error)
        it.primary.change = lambda name, data: data
        await it.succeeds()


def chunks_in(folder: Path) -> dict[str, Path]:
    return {str(int(path.name)): path for path in (folder / FOLDER).glob("*/0*")}


def databases_in(folder: Path) -> set[str]:
    return {path.name for path in folder.glob("log-*")}


@pytest_twisted.ensureDeferred
async def test_chunks_that_are_here_are_not_asked_for_again(tmp_path: Path) -> None:
    """After a failure on the way the next attempt asks for what is missing or broken, no more."""
    async with site(tmp_path) as it:
        assert it.primary.snapshot is not None
        count = len(it.primary.snapshot.manifest.chunks)
        last = str(count - 1)
        it.primary.change = lambda name, data: 503 if name == last else data
        await it.refused(Unreachable)
        here = chunks_in(tmp_path)
        # The transfer beside the one that failed was broken off, or was done.
        assert {"0"} <= here.keys() < {str(n) for n in range(count)}
        it.primary.sent.clear()
        await it.refused(Unreachable)
        assert "0" not in it.primary.sent
        chunks_in(tmp_path)["0"].write_bytes(b"a disk that lies")
        it.primary.sent.clear()
        it.primary.change = lambda name, data: data
        await it.succeeds()
        assert {"0", last} <= set(it.primary.sent)


@pytest_twisted.ensureDeferred
async def test_a_lost_chunk_is_asked_for_again(tmp_path: Path) -> None:
    """A chunk that does not come at first costs a pause, not the rows that are loaded."""
    async with site(tmp_path) as it:
        failures = iter([503, 503])
        it.primary.change = lambda name, data: (
            next(failures, data) if name == "1" else data  # the third time it comes
        )
        await it.succeeds()
        assert it.clock.delays == [1.0, 1.0]


@pytest_twisted.ensureDeferred
async def test_a_chunk_that_is_gone_is_not_waited_for(tmp_path: Path) -> None:
    """Who no longer has the snapshot is not asked for the same chunk again."""
    async with site(tmp_path) as it:
        it.primary.change = lambda name, data: 410 if name == "1" else data
        await it.refused(Unreachable)
        assert it.clock.delays == []


def test_a_file_that_was_let_go_is_not_opened(tmp_path: Path) -> None:
    """Whoever closes before a thread comes to open finds nothing open afterwards."""
    with engine() as source:
        record_all(source, [START])
        snapshot = make(source, tmp_path / "snapshots")
    loader = Loader(tmp_path / "loading.sqlite", snapshot.manifest)
    loader.close()
    loader.open()
    assert not loader.path.exists()


@pytest_twisted.ensureDeferred
async def test_another_history_is_not_continued(tmp_path: Path) -> None:
    """A replica whose entries are not in the snapshot's log takes nothing, however well signed;
    nor one that is ahead of it."""
    async with site(tmp_path) as it:
        other = Frontier().extended([bytes(32), bytes(32)])
        await it.refused(Diverged, other)
        await it.refused(Unreachable, Frontier().extended([bytes(32)] * 6))


@pytest_twisted.ensureDeferred
async def test_a_snapshot_of_an_epoch_that_is_over(tmp_path: Path) -> None:
    """Who knows of a later epoch does not start from what its predecessor signed."""
    async with site(tmp_path) as it:
        later = Start(2, 4, "key", "node", "proof", bytes(32))
        before = facts(it.database.engine)
        with pytest.raises(LogError, match="epoch that is over"):
            await it.bootstrap().run(TRUST, it.at, [later])
        assert facts(it.database.engine) == before


@pytest_twisted.ensureDeferred
async def test_short_logs_are_followed(tmp_path: Path) -> None:
    """A fresh replica of a short log follows it from its start; who has entries asks nobody, and
    removes what attempts have left."""
    async with site(tmp_path) as it:
        bootstrap = it.bootstrap()
        bootstrap._demanded = False
        assert not await bootstrap.is_due(Frontier())
        it.primary.sent.clear()
        (tmp_path / FOLDER / "5-x").mkdir(parents=True)
        (tmp_path / "log-dead.sqlite-wal").touch()
        assert not await bootstrap.is_due(it.at)
        assert it.primary.sent == []
        assert not (tmp_path / FOLDER).exists()
        assert databases_in(tmp_path) == set()
        assert (tmp_path / "log.sqlite").exists()
