"""Nodes of the simulation: the parts of `primary` and `replica` that replication is made of.

Put together as `primary/compose.py` and `replica/tap.py` do it, with runners that do everything
at once, an HTTP client of the simulated network, and a clock that stops when the node dies.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import orjson
from attrs import define, field
from sqlalchemy import Engine
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock as TestClock
from twisted.python.failure import Failure

from cluster.auth.limits import GuessLimits
from cluster.auth.nodes import NodeSecret
from cluster.auth.passwords import PasswordChecker
from cluster.clock import Clock, Delayed
from cluster.durable import SecretBlobs, write_durably
from cluster.errors import Gone, NotFound, PymirrorError
from cluster.log import changelog
from cluster.log.changes import Change
from cluster.log.epochs import Trust
from cluster.log.merkle import Frontier
from cluster.protocol import (
    COSIGN_PATH,
    EPOCHS_PATH,
    EVIDENCE_PATH,
    FENCE_PATH,
    IDENTITY_PATH,
    NOTE_PATH,
    REPORTS_PATH,
    SECRET_PATH,
    SERIAL_HEADER,
    SNAPSHOT_PATH,
    SNAPSHOTS_PATH,
    TAIL_PATH,
)
from cluster.state import queries
from cluster.state.database import Database, open_engine
from cluster.state.directory import Directory
from cluster.state.position import Position
from cluster.state.upgrade import bring_up_to_date
from cluster.threads import Inline
from cluster.web.identity import Identity
from cluster.web.polls import Polls
from cluster.web.replies import Reply, error_reply, json_reply
from cluster.web.status import LogIdentity
from primary.acks import Acks
from primary.bootstrap import FIRST_EPOCH, FirstStart, first_changes, load_key, signer_for
from primary.compaction import Compaction, Retention
from primary.feed import Feed
from primary.fence import Order, fence_order
from primary.fencing import Fencing, read_fence
from primary.followers import Followers
from primary.relayed import Relayed
from primary.snapshots import Snapshots
from primary.streams import Streams
from primary.tofence import ToFence, read_left
from primary.writer import Writer, Written
from replica.bootstrap import Bootstrap
from replica.cosigning import Cosigner
from replica.follower import Follower
from replica.following import Following
from replica.primary_client import PrimaryClient
from replica.relay import Relay
from replica.reporting import Own, Reporter
from replica.secretsync import SecretSync
from tests.simulation.disk import Disk
from tests.simulation.network import Network, Request

SECRET = b"the secret of the simulated cluster"
START = 1_700_000_000.0

OnCommit = Callable[["Running", Frontier, Any, Frontier], None]
Handler = Callable[[Request, str], "Awaitable[Reply | None] | Reply"]


class _Threads(Inline):
    """A pool that does everything at once."""

    def start(self) -> None:
        """Nothing to do."""

    def stop(self) -> None:
        """Nothing to do."""


@define(eq=False)
class MortalClock:
    """A node's view of the common clock; nothing that it has planned happens after its death."""

    clock: TestClock
    _calls: list[Any] = field(factory=list)
    _dead: bool = False

    def seconds(self) -> float:
        """The common time."""
        return float(self.clock.seconds())  # type: ignore[no-untyped-call,unused-ignore]

    def callLater(self, delay: float, f: Callable[..., object], *args: object) -> Delayed:
        """Plan a call."""
        call: Any = self.clock.callLater(delay, f, *args)
        if self._dead:
            call.cancel()
        self._calls = [one for one in self._calls if one.active()] + [call]
        return cast(Delayed, call)

    def die(self) -> None:
        """Plan no more."""
        self._dead = True
        for call in self._calls:
            if call.active():
                call.cancel()


@define
class World:
    """What all nodes share; `level` is ``--sync-replicas``."""

    clock: TestClock
    network: Network
    chance: random.Random
    level: int
    committed: OnCommit
    surprised: Callable[[str, Failure], None]
    every: int = 0


@define(eq=False)
class Running:
    """A node's process. Made by `start`, ended by `die` alone: nodes crash."""

    name: str
    uuid: str
    world: World
    disk: Disk
    urls: list[str]
    skew: Callable[[], float]
    clock: MortalClock = field(init=False)
    engine: Engine = field(init=False)
    database: Database = field(init=False)
    position: Position = field(init=False)
    directory: Directory = field(init=False)
    secret: NodeSecret = field(init=False)
    blobs: SecretBlobs = field(init=False)
    identity: Identity = field(init=False)
    writer: Writer | None = None
    fencing: Fencing | None = None
    acks: Acks | None = None
    snapshots: Snapshots | None = None
    compaction: Compaction | None = None
    follower: Follower | None = None
    _routes: dict[str, Handler] = field(factory=dict)

    @property
    def folder(self) -> Path:
        """The node's state."""
        return self.disk.root

    def now(self) -> float:
        """The node's wall clock, which may be wrong."""
        return START + self.clock.seconds() + self.skew()

    def start(self, *, is_primary: bool) -> None:
        """Open the folder and begin; raises what keeps a node from starting."""
        self.clock = MortalClock(self.world.clock)
        self.engine = open_engine(self.folder / "log.sqlite", changelog.metadata)
        bring_up_to_date(self.engine)
        self.database = Database(self.engine, Inline(), Inline())
        with self.engine.begin() as connection:
            frontier, head = changelog.frontier(connection), queries.head(connection)
        self.position = Position(self.as_clock, head)
        self.secret = NodeSecret(SECRET, self.now)
        self.blobs = SecretBlobs(self.folder / "secrets")
        self.directory = Directory.following(self.database, self.position)
        self.identity = Identity(
            self.directory, PasswordChecker(Inline(), self.as_clock), self.blobs, self.secret,
            GuessLimits(self.as_clock), self.now, lambda _: None,
        )  # fmt: skip
        if is_primary:
            done = Deferred.fromCoroutine(self._be_primary(frontier))
            done.addErrback(lambda failure: self.world.surprised(f"{self.name} starts", failure))
            assert done.called
        else:
            self._be_replica(frontier)
        self.world.network.servers[self.name] = self.serve

    @property
    def as_clock(self) -> Clock:
        """The node's clock, as our code sees clocks."""
        return cast(Clock, self.clock)

    def die(self) -> None:
        """End at once; the disk is the caller's."""
        self.clock.die()
        self.world.network.drop(self.name)
        self.engine.dispose()

    async def _be_primary(self, frontier: Frontier) -> None:
        private = load_key(self.folder)
        self.writer = writer = Writer(
            self.database, self.position, FIRST_EPOCH, frontier,
            now=lambda: datetime.fromtimestamp(self.now(), UTC),
        )  # fmt: skip
        fence = read_fence(self.folder)
        self.fencing = Fencing(
            self.folder, Inline(), lambda: writer.epoch, self.position.wake_all, fence, self.now
        )
        self.acks = Acks(self.as_clock, self.directory, self.world.level)
        wish = FirstStart(lambda: None, None)
        await writer.write("+bootstrap", lambda c: first_changes(c, private, self.blobs, wish))
        epochs = await self.database.read(queries.all_epochs)
        first, epoch = epochs[0], epochs[-1]
        writer.epoch = epoch.epoch
        starts = await self.database.read(queries.starts)
        own = Order(epoch.epoch, f"http://{self.name}", epoch.key, starts[-1] if starts else None)
        self.fencing.own(Trust(first.log, first.key, SECRET), own)
        signer = signer_for(private, epoch)
        followers = Followers(self.position, self.now)
        polls = Polls(self.position)
        streams = Streams(self.as_clock, self.position, polls, self.identity)
        feed = Feed(
            self.database, self.position, signer, cast(Any, self.identity), followers,
            LogIdentity(first.log, first.key), lambda: SECRET, self.fencing, self.acks, polls,
            streams,
        )  # fmt: skip
        self.acks.on_wait = streams.tell
        relayed = Relayed(
            self.identity, self.database, self.position, followers, self.acks, self.fencing, polls
        )

        def committed(before: Frontier, entries: Any, after: Frontier) -> None:
            feed.committed(before, entries, after)
            self.world.committed(self, before, entries, after)

        writer.on_commit, writer.guard = committed, self.fencing.check
        writer.confirm = self.acks.confirm
        to_fence = ToFence(
            self.folder, cast(Any, self.world.network.client(self.name)), self.as_clock, Inline(),
            self.secret, self.uuid, lambda: own, self.fencing.learn, lambda: list(self.urls),
            read_left(self.folder),
        )  # fmt: skip
        self.fencing.split = to_fence.again
        to_fence.start()
        self.snapshots = Snapshots(
            self.database, self.position, cast(Any, self.identity), signer,
            Trust(first.log, first.key, SECRET), self.folder / "snapshots", cast(Any, _Threads()),
            self.as_clock, self.world.every, self.fencing.require_owner,
        )  # fmt: skip
        self.compaction = Compaction(
            self.database, self.snapshots, self.as_clock, self.now, followers.slowest, _nothing,
            Retention(entries=0, days=0),
        )  # fmt: skip
        feed.newest_snapshot = lambda: cast(Snapshots, self.snapshots).newest
        await self.snapshots.start()
        self._routes = {
            IDENTITY_PATH: lambda r, _: feed.identity(_as_node(r)),
            EPOCHS_PATH: lambda r, _: feed.epochs(_as_node(r)),
            TAIL_PATH: lambda r, _: feed.tail(_as_node(r)),
            COSIGN_PATH: lambda r, _: feed.cosign(_as_node(r)),
            REPORTS_PATH: lambda r, _: relayed.take(_as_node(r)),
            NOTE_PATH: lambda r, size: feed.note(_as_node(r), size),
            EVIDENCE_PATH: lambda r, _: feed.evidence(_as_node(r)),
            FENCE_PATH: self._fence,
            SECRET_PATH: self._send_secret,
            SNAPSHOTS_PATH: lambda r, _: cast(Snapshots, self.snapshots).listing(_as_node(r)),
            SNAPSHOT_PATH: self._send_snapshot,
        }

    def _be_replica(self, frontier: Frontier) -> None:
        client = PrimaryClient(
            list(self.urls), cast(Any, self.world.network.client(self.name)), self.as_clock,
            self.secret, self.uuid, self.now,
        )  # fmt: skip
        secrets = SecretSync(client, self.blobs, Inline())
        bootstrap = Bootstrap(
            client, self.database, Inline(), self.folder, secrets, self.as_clock
        )  # fmt: skip
        follower = self.follower = Follower(
            client, self.database, Inline(), self.position, self.as_clock, self.now, self.folder,
            frontier, lambda following: self._polling(reporter, following), secrets, bootstrap,
            chance=random.Random(self.world.chance.random()),
        )  # fmt: skip
        cosigner = Cosigner(
            client, lambda: (follower.durable, follower.durable.size), lambda: follower.reachable,
            lambda: orjson.dumps(self._report(follower.following)), self.as_clock,
        )  # fmt: skip
        follower.on_durable = cosigner.tell
        reporter = Reporter(
            client, self.as_clock,
            Own(
                self.uuid, lambda: self.position.serial, lambda: follower.following, self._report,
                self.now, lambda method, path: self.secret.token(self.uuid, method, path),
            ),
        )  # fmt: skip
        relay = Relay(
            client, self.database, self.position, cast(Any, self.identity), self.blobs, Inline(),
            Polls(self.position), self.uuid, lambda: follower.identity,
            lambda: follower.following, reporter,
        )  # fmt: skip
        self._routes = {
            IDENTITY_PATH: lambda r, _: relay.identity(_as_node(r)),
            EPOCHS_PATH: lambda r, _: relay.epochs(_as_node(r)),
            TAIL_PATH: lambda r, _: relay.tail(_as_node(r)),
            COSIGN_PATH: lambda r, _: relay.cosign(_as_node(r)),
            REPORTS_PATH: lambda r, _: relay.reports(_as_node(r)),
            NOTE_PATH: lambda r, size: relay.note(_as_node(r), size),
            SECRET_PATH: lambda r, name: relay.secret(_as_node(r), name),
            SNAPSHOTS_PATH: lambda r, _: relay.owned(_as_node(r)),
            SNAPSHOT_PATH: lambda r, _: relay.owned(_as_node(r)),
        }
        urls = "".join(f"{url}\n" for url in self.urls).encode()
        write_durably(self.folder / "primary-urls", urls)
        follower.start()
        reporter.start()

    def _polling(self, reporter: Reporter, following: Following) -> dict[str, Any]:
        reporter.polls(cast(Follower, self.follower).frontier)
        return self._report(following)

    def _report(self, following: Following) -> dict[str, Any]:
        return {"state": following.state.value, "files_position": self.position.serial}

    def serve(self, request: Request) -> Deferred[Reply | None]:
        """Answer a request, as `cluster.web.routes.answering` does."""
        return Deferred.fromCoroutine(self._serve(request))

    async def _serve(self, request: Request) -> Reply | None:
        try:
            reply = await self._routed(request)
        except CancelledError:
            raise
        except Exception as error:
            if not isinstance(error, PymirrorError):
                self.world.surprised(f"{self.name} serves {request.uri!r}", Failure())
            reply = error_reply(Failure(), "")
        if reply is None:
            return None
        headers = {SERIAL_HEADER: str(self.position.serial), **reply.headers}
        return Reply(reply.status, reply.body, reply.content_type, headers)

    async def _routed(self, request: Request) -> Reply | None:
        path = request.path.decode()
        for route, handler in self._routes.items():
            if path == route or path.startswith(route + "/"):
                reply = handler(request, path[len(route) + 1 :])
                return reply if isinstance(reply, Reply) else await reply
        raise NotFound("nothing here")

    async def _fence(self, request: Request, _: str) -> Reply:
        self.identity.require_node(_as_node(request))
        assert self.fencing is not None
        await self.fencing.learn(fence_order(request.content.read()))
        return json_reply(self.fencing.owner().to_json())

    def _send_secret(self, request: Request, name: str) -> Reply:
        self.identity.require_node(_as_node(request))
        data = self.blobs.get(name) if self.blobs.has(name) else b""
        if not data:
            raise Gone("there is no such blob")
        return Reply(200, data, "application/octet-stream")

    async def _send_snapshot(self, request: Request, rest: str) -> Reply:
        assert self.snapshots is not None
        serial, _, part = rest.partition("/")
        if part == "manifest":
            return await self.snapshots.manifest(_as_node(request), serial)
        return await self.snapshots.chunk(_as_node(request), serial, part)

    def write(self, changes: list[Change]) -> Deferred[Written]:
        """A client's write; fires when it is acknowledged."""
        assert self.writer is not None
        return Deferred.fromCoroutine(self.writer.write("root", lambda _: changes))


def _as_node(request: Request) -> Any:
    """The part of a `NodeRequest` that handlers of the log look at."""
    return request


async def _nothing() -> int | None:
    return None
