"""The parts that both kinds of node are put together from, and their life as a service."""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

from attrs import define, field
from twisted.application.service import Service
from twisted.internet.defer import CancelledError, Deferred, DeferredList
from twisted.internet.endpoints import serverFromString
from twisted.internet.error import CannotListenError
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from cluster.agent import Requester, make_agent
from cluster.auth.nodes import NodeSecret
from cluster.auth.passwords import PasswordChecker
from cluster.clock import bounded
from cluster.durable import TEMPORARY_SUFFIX, SecretBlobs, read_or_make
from cluster.errors import PymirrorError
from cluster.files.fetch import Fetcher
from cluster.files.sources import HttpSource, Source, Wanted
from cluster.files.store import FileStore
from cluster.log import changelog
from cluster.log.merkle import Frontier
from cluster.model import MirrorIndex
from cluster.options import NodeSettings
from cluster.simple.cache import PageCache
from cluster.simple.listing import ListPages
from cluster.state import freshness, queries
from cluster.state.database import Database, open_engine
from cluster.state.links import LocatedFile
from cluster.state.position import Head, Position
from cluster.state.projectcache import ProjectCache
from cluster.state.upgrade import bring_up_to_date
from cluster.threads import Threads
from cluster.upstream.client import UpstreamClient
from cluster.upstream.health import UpstreamHealth
from cluster.upstream.ondemand import OnDemand, Refresher
from cluster.web.files import Files, Learned, Sources
from cluster.web.hotfiles import HotFiles
from cluster.web.identity import Identity
from cluster.web.log import LogPages
from cluster.web.quick import QuickPages
from cluster.web.request import NodeHandlers, NodeSite
from cluster.web.simple import SimplePages
from cluster.web.status import FileFailures, LogIdentity, StatusDocument
from cluster.web.unlogged import UnloggedFiles

PAGE_CACHE_BYTES = 32 << 20
FILE_CACHE_BYTES = 8 << 20
SHUTDOWN_SECONDS = 30.0
_FLUSH_SECONDS = 0.2


@define
class Pools:
    """The threads of a node, by what they may be kept busy with."""

    writer: Threads
    readers: Threads
    local: Threads
    files: Threads
    heavy: Threads

    @classmethod
    def make(cls, reactor: Any) -> Pools:
        """Small pools: this is Python, and more threads would only take turns."""
        return cls(
            writer=Threads(reactor, 1, "writer"),
            readers=Threads(reactor, 4, "readers"),
            local=Threads(reactor, 1, "local"),
            files=Threads(reactor, 8, "files"),
            heavy=Threads(reactor, 2, "heavy"),
        )

    def all(self) -> list[Threads]:
        """Every pool."""
        return [self.writer, self.readers, self.local, self.files, self.heavy]


@define
class Parts:
    """What a node is made of before its role is known. Made by `open_parts`; blocking."""

    reactor: Any
    settings: NodeSettings
    uuid: str
    pools: Pools
    secret: NodeSecret
    database: Database
    local: Database
    frontier: Frontier
    position: Position
    store: FileStore
    fetcher: Fetcher
    failures: FileFailures
    health: UpstreamHealth
    agent: Requester
    client: UpstreamClient
    cache: PageCache
    hot_files: HotFiles
    lists: ListPages
    identity: Identity
    blobs: SecretBlobs
    unlogged: UnloggedFiles
    started_at: float

    def simple_pages(self, refresher: Refresher) -> tuple[SimplePages, OnDemand]:
        """The simple API, whose mirrors are refreshed by `refresher`."""
        mirror = OnDemand(refresher, self.local, self.reactor, time.time)
        pages = SimplePages(
            self.database, self.position, self.reactor, time.time,
            self.cache, self.lists, mirror, self.unlogged,
        )  # fmt: skip
        return pages, mirror

    def quick_pages(self) -> QuickPages:
        """The way out for cached pages."""
        return QuickPages(self.reactor, time.time)

    def files(self, sources: Sources, learned: Learned | None) -> Files:
        """Files, fetched from `sources` when they are not in the store."""
        return Files(
            self.database, self.store, self.fetcher, sources, self.unlogged, learned,
            self.position, self.hot_files,
        )  # fmt: skip

    def log_pages(self, checkpoint: Callable[[], bytes | None]) -> LogPages:
        """The log's checkpoint and tiles."""
        return LogPages(self.database, checkpoint)

    def status(
        self,
        role: str,
        identity: Callable[[], LogIdentity | None],
        ready: Callable[[], str | None],
        more: Callable[[], Mapping[str, Any]],
    ) -> StatusDocument:
        """The status document with the parts that this role adds."""
        return StatusDocument(
            role=role, uuid=self.uuid, outside_url=self.settings.outside_url,
            position=self.position, identity=identity, store=self.store, pages=self.cache,
            upstreams=self.health, failures=self.failures, ready=ready, more=more,
            started_at=self.started_at, now=time.time,
        )  # fmt: skip

    async def close(self) -> None:
        """Stop what runs in the background, then the threads, then the databases."""
        await self.fetcher.stop()
        for pool in self.pools.all():
            pool.stop()
        self.database.engine.dispose()
        self.local.engine.dispose()


def open_parts(
    reactor: Any, settings: NodeSettings, make_secret: Callable[[], bytes], *, durable: bool
) -> Parts:
    """Open the state directory and make what every node needs; nothing is served yet.

    `durable` is whether each commit is fsynced: what a primary acknowledges must survive a
    power cut; a replica that forgets its last entries follows them again.
    """
    state_dir = settings.state_dir
    _prepare_folder(state_dir)
    pools = Pools.make(reactor)
    database, local = _open_databases(state_dir, pools, durable)
    frontier, head = _head(database)
    position = Position(reactor, head)
    failures, health = FileFailures(time.time, []), UpstreamHealth(time.time)
    store = FileStore(state_dir / "files", pools.files)
    agent = make_agent(reactor)
    cache = PageCache(PAGE_CACHE_BYTES)
    lists = ListPages(database, reactor, state_dir / "lists", lambda: position.serial)
    position.listen(cache.changed)
    position.listen(lists.changed)
    hot_files: HotFiles = ProjectCache(FILE_CACHE_BYTES)
    position.listen(hot_files.changed)
    secret = NodeSecret(read_or_make(settings.secret_file, make_secret), time.time)
    blobs = SecretBlobs(state_dir / "secrets")
    uuid = read_or_make(state_dir / "uuid", lambda: str(uuid4()).encode()).decode().strip()

    def failed(source: str, wanted: Wanted, reason: str) -> None:
        failures.failed(source, wanted.filename, reason)

    return Parts(
        reactor=reactor, settings=settings, uuid=uuid, pools=pools, secret=secret,
        database=database, local=local, frontier=frontier, position=position, store=store,
        fetcher=Fetcher(store, reactor, failed), failures=failures, health=health, agent=agent,
        client=UpstreamClient(agent, reactor), cache=cache, hot_files=hot_files, lists=lists,
        identity=Identity(database, PasswordChecker(pools.heavy, reactor), blobs, secret),
        blobs=blobs, unlogged=UnloggedFiles(), started_at=time.time(),
    )  # fmt: skip


def _prepare_folder(state_dir: Path) -> None:
    """Make the state folder, and remove what a process that is gone left half done in it."""
    state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    for scratch in ("scratch", "lists"):
        (state_dir / scratch).mkdir(exist_ok=True)
        shutil.rmtree(state_dir / scratch)
        (state_dir / scratch).mkdir()
    for left_over in state_dir.glob(f".*{TEMPORARY_SUFFIX}"):
        left_over.unlink()


def _open_databases(state_dir: Path, pools: Pools, durable: bool) -> tuple[Database, Database]:
    engine = open_engine(state_dir / "log.sqlite", changelog.metadata, durable=durable)
    bring_up_to_date(engine)
    local = open_engine(state_dir / "local.sqlite", freshness.metadata, durable=False)
    return (
        Database(engine, pools.writer, pools.readers),
        Database(local, pools.local, pools.local),
    )


def _head(database: Database) -> tuple[Frontier, Head]:
    with database.engine.begin() as connection:
        frontier = changelog.frontier(connection)
        epoch = queries.epoch(connection)
        time_of_head = queries.head_time(connection)
    return frontier, Head(frontier.size, epoch.epoch if epoch else 0, frontier.root, time_of_head)


def upstream_sources(parts: Parts, located: LocatedFile) -> list[Source]:
    """The upstream of a mirrored file; nothing for an uploaded one, which is here or lost."""
    if not isinstance(located.index, MirrorIndex) or located.file.url is None:
        return []
    return [HttpSource(located.index.name, parts.agent, lambda wanted: wanted.url)]


@define(eq=False)
class NodeService(Service):
    """A node's life: open, listen; at the end stop listening, finish what is in flight, close.

    `compose` makes the role (a primary or a replica) with its parts, given the reactor.
    """

    _log = Logger()

    reactor: Any
    settings: NodeSettings
    compose: Callable[[Any], Any]
    _parts: Parts | None = None
    _site: NodeSite | None = None
    _ports: list[Any] = field(factory=list)
    _role: Any = None

    def startService(self) -> None:
        """Begin; a node that cannot start says why and ends the process with status 1."""
        super().startService()
        Deferred.fromCoroutine(self._start()).addErrback(self._give_up)

    async def _start(self) -> None:
        self._role = self.compose(self.reactor)
        self._parts = parts = self._role.parts
        for pool in parts.pools.all():
            pool.start()
        await parts.store.open()
        web: NodeHandlers = await self._role.start()
        self._site = NodeSite(web.app.resource(), web)  # type: ignore[attr-defined]
        for endpoint in self.settings.listen:
            port = await serverFromString(self.reactor, endpoint).listen(self._site)
            self._ports.append(port)
            self._log.info("{role} listens on {port}", role=self._role.name, port=port.getHost())

    def _give_up(self, failure: Failure) -> None:
        if failure.check(PymirrorError, OSError, CannotListenError):
            message = str(failure.value)
        else:
            self._log.failure("the node cannot start", failure)
            message = repr(failure.value)
        sys.stderr.write(f"pymirror cannot start: {message}\n")
        self.reactor.addSystemEventTrigger("after", "shutdown", os._exit, 1)
        self.reactor.callWhenRunning(self.reactor.stop)

    def stopService(self) -> Deferred[None]:
        """End in order; what is in flight gets up to SHUTDOWN_SECONDS."""
        super().stopService()
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        await DeferredList([port.stopListening() for port in self._ports])
        if self._site is not None:
            self._role.stop_waiting()
            idle = Deferred.fromCoroutine(self._site.idle())
            with suppress(CancelledError):
                await bounded(idle, SHUTDOWN_SECONDS, self.reactor)
            # The last answers are still in their connections' buffers; a process that ended in
            # this turn of the reactor would take them along.
            await deferLater(self.reactor, _FLUSH_SECONDS)
            await self._role.stop()
        if self._parts is not None:
            await self._parts.close()
