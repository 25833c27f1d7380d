"""The parts that both kinds of node are put together from."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from uuid import uuid4

from attrs import define, field
from sqlalchemy import MetaData

from cluster.agent import Requester, make_agent, make_direct_agent
from cluster.auth import tokenuse
from cluster.auth.limits import GuessLimits
from cluster.auth.nodekeys import KEY_FILE, Admission, admitted, read_key
from cluster.auth.nodes import NodeSecret
from cluster.auth.passwords import PasswordChecker
from cluster.auth.tokenuse import TokenUses
from cluster.durable import TEMPORARY_SUFFIX, FolderLock, SecretBlobs, read_or_make
from cluster.files import hosted, ledger, scrub
from cluster.files.fetch import Fetcher
from cluster.files.keeping import FileKeeping
from cluster.files.siblings import Siblings
from cluster.files.store import FileStore
from cluster.log import changelog
from cluster.log.merkle import Frontier
from cluster.options import NodeSettings
from cluster.protocol import NODE_HEADER
from cluster.search.index import SearchIndex
from cluster.simple.cache import PageCache
from cluster.simple.listing import ListPages
from cluster.state import freshness, queries
from cluster.state.database import Database, open_engine
from cluster.state.directory import Directory
from cluster.state.position import Head, Position
from cluster.state.upgrade import bring_up_to_date
from cluster.state.wal import WriteAheadLog
from cluster.threads import Threads
from cluster.upstream.client import UpstreamClient
from cluster.upstream.credentials import UpstreamCredentials
from cluster.upstream.health import UpstreamHealth
from cluster.upstream.ondemand import OnDemand, Refresher
from cluster.web.devpi.discovery import Discovery
from cluster.web.devpi.indexes import IndexPages
from cluster.web.devpi.users import UserPages
from cluster.web.docs import DocsPages
from cluster.web.files import Files, Learned, Sources
from cluster.web.finding import Finding
from cluster.web.headers import NodeHeaders
from cluster.web.hotfiles import HotFiles
from cluster.web.identity import Identity
from cluster.web.legacy import LegacyJson
from cluster.web.log import LogPages
from cluster.web.quick import QuickPages
from cluster.web.rootpassword import RootPassword
from cluster.web.search import SearchPages
from cluster.web.simple import SimplePages
from cluster.web.status import FileFailures, LogIdentity, StatusDocument
from cluster.web.unlogged import UnloggedFiles
from cluster.web.xmllists import PackageLists
from cluster.web.xmlrpc import XmlRpc

PAGE_CACHE_BYTES = 32 << 20
FILE_CACHE_BYTES = 8 << 20


@define
class Pools:
    """The threads of a node, by what they may be kept busy with."""

    writer: Threads
    readers: Threads
    local: Threads
    files: Threads
    heavy: Threads
    search: Threads

    @classmethod
    def make(cls, reactor: Any) -> Pools:
        """Small pools: this is Python, and more threads would only take turns."""
        return cls(
            writer=Threads(reactor, 1, "writer"),
            readers=Threads(reactor, 4, "readers"),
            local=Threads(reactor, 1, "local"),
            files=Threads(reactor, 8, "files"),
            heavy=Threads(reactor, 2, "heavy"),
            search=Threads(reactor, 1, "search"),
        )

    def all(self) -> list[Threads]:
        """Every pool."""
        return [self.writer, self.readers, self.local, self.files, self.heavy, self.search]


@define
class Parts:
    """What a node is made of before its role is known. Made by `open_parts`; blocking."""

    lock: FolderLock
    reactor: Any
    settings: NodeSettings
    uuid: str
    pools: Pools
    secret: NodeSecret
    database: Database
    local: Database
    frontier: Frontier
    position: Position
    directory: Directory
    store: FileStore
    keeping: FileKeeping
    siblings: Siblings
    fetcher: Fetcher
    failures: FileFailures
    health: UpstreamHealth
    agent: Requester
    client: UpstreamClient
    credentials: UpstreamCredentials
    cache: PageCache
    hot_files: HotFiles
    lists: ListPages
    identity: Identity
    blobs: SecretBlobs
    unlogged: UnloggedFiles
    token_uses: TokenUses
    admission: Admission
    root_password: RootPassword
    started_at: float
    search: SearchIndex = field(init=False)

    def __attrs_post_init__(self) -> None:
        self.search = SearchIndex(
            self.database, self.position, self.settings.state_dir / "search.sqlite",
            self.pools.search, self.pools.readers, self.reactor, self.settings.search,
        )  # fmt: skip

    def simple_pages(self, refresher: Refresher) -> tuple[SimplePages, OnDemand]:
        """The simple API, whose mirrors are refreshed by `refresher`."""
        mirror = OnDemand(refresher, self.local, self.reactor, time.time)
        self.position.listen(mirror.changed)
        pages = SimplePages(
            self.database, self.position, self.reactor, time.time,
            self.cache, self.lists, mirror, self.unlogged, self.identity,
        )  # fmt: skip
        return pages, mirror

    def headers(self, log: Callable[[], str | None]) -> NodeHeaders:
        """The headers of every answer; `log` is the log's uuid, None while unknown."""
        return NodeHeaders(self.uuid, log)

    def quick_pages(self, headers: NodeHeaders) -> QuickPages:
        """The way out for cached pages."""
        return QuickPages(self.reactor, time.time, headers)

    def files(self, sources: Sources, learned: Learned | None) -> Files:
        """Files, fetched from `sources` when they are not in the store."""
        return Files(
            self.database, self.store, self.fetcher, sources, self.unlogged, learned,
            self.position, self.hot_files, self.identity,
        )  # fmt: skip

    def docs(self, files: Files) -> DocsPages:
        """Documentation, out of zips that are files like any other."""
        return DocsPages(self.database, self.identity, self.store, files)

    def discovery(self) -> Discovery:
        """Where things are, and the login."""
        return Discovery(self.identity, self.database, self.settings.outside_url)

    def user_pages(self, role: str) -> UserPages:
        """Users, and the front page."""
        return UserPages(self.identity, self.database, role)

    def index_pages(self, mirror: OnDemand) -> IndexPages:
        """Indexes; `mirror` sees to the lists of mirrors."""
        return IndexPages(self.identity, self.database, mirror)

    def finding(self, simple: SimplePages, mirror: OnDemand) -> Finding:
        """The ways to look for projects."""
        database, identity = self.database, self.identity
        legacy = LegacyJson(database, simple, identity, self.settings.outside_url)
        lists = PackageLists(database, self.settings.state_dir / "lists")
        calls = XmlRpc(
            database, self.position, identity, self.search, legacy, lists, mirror,
            self.pools.heavy,
        )  # fmt: skip
        return Finding(legacy, SearchPages(database, identity, self.search, mirror), calls)

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
            upstreams=self.health, failures=self.failures, ready=ready,
            fetching=self.fetcher.count, more=lambda: {
                **more(), "search": self.search.document(), **self.keeping.document(),
                "siblings": self.siblings.document(),
            },
            warnings=lambda: [w for w in (self.root_password.warning,) if w],
            listen=self.settings.listen[0], started_at=self.started_at, now=time.time,
        )  # fmt: skip

    async def close(self) -> None:
        """Stop what runs in the background, then the threads, then the databases."""
        await self.fetcher.stop()
        await self.keeping.stop()
        await self.search.stop()
        for pool in self.pools.all():
            pool.stop()
        self.database.close()
        self.local.close()
        self.lock.release()


def open_parts(
    reactor: Any, settings: NodeSettings, make_secret: Callable[[], bytes], *, durable: bool,
    local_tables: Sequence[MetaData] = (),
) -> Parts:  # fmt: skip
    """Open the state directory and make what every node needs; nothing is served yet.

    `durable` is whether each commit is fsynced; without, `Database.make_durable` does it.
    `local_tables` are what this role keeps in local.sqlite beside what every node does.
    """
    state_dir, pools, lock = settings.state_dir, Pools.make(reactor), FolderLock(settings.state_dir)
    database, local = _open_databases(state_dir, pools, durable, local_tables)
    frontier, head = _head(database)
    position = Position(reactor, head)
    directory = Directory.following(database, position)
    failures, health = FileFailures(time.time, []), UpstreamHealth(time.time)
    store, agent = FileStore(state_dir / "files", pools.files), make_agent(reactor)
    caches = _caches(reactor, state_dir, database, position)
    secret = NodeSecret(read_or_make(settings.secret_file, make_secret), time.time)
    secret.key = read_key(state_dir / KEY_FILE)
    admission = _admission(settings, database, position, secret)
    blobs, token_uses = SecretBlobs(state_dir / "secrets"), TokenUses(local, time.time)
    credentials = UpstreamCredentials(blobs, pools.heavy)
    uuid = read_or_make(state_dir / "uuid", lambda: str(uuid4()).encode()).decode().strip()
    identity = Identity(
        directory, PasswordChecker(pools.heavy, reactor), blobs, secret, GuessLimits(reactor),
        time.time, token_uses.used, settings.allow_empty_root_password, admission=admission,
        trusted=settings.trusted_proxies,
    )  # fmt: skip
    return Parts(
        lock=lock, reactor=reactor, settings=settings, uuid=uuid, pools=pools, secret=secret,
        database=database, local=local, frontier=frontier, position=position,
        directory=directory, store=store,
        keeping=_keeping(reactor, settings, (database, local), store, position),
        siblings=_siblings(reactor, settings, secret, uuid),
        fetcher=Fetcher(store, reactor, failures.fetch_failed), failures=failures, health=health,
        agent=agent, client=UpstreamClient(agent, reactor, credentials), credentials=credentials,
        cache=caches[0], hot_files=caches[1], lists=caches[2], identity=identity, blobs=blobs,
        unlogged=UnloggedFiles(), token_uses=token_uses, admission=admission,
        root_password=_root_password(settings, database, position), started_at=time.time(),
    )  # fmt: skip


def _caches(
    reactor: Any, state_dir: Path, database: Database, position: Position
) -> tuple[PageCache, HotFiles, ListPages]:
    lists = ListPages(database, reactor, state_dir / "lists", lambda: position.serial)
    pages, files = PageCache(PAGE_CACHE_BYTES), HotFiles(FILE_CACHE_BYTES)
    for cached in (pages, files, lists):
        position.listen(cached.changed)
    return pages, files, lists


def _keeping(
    reactor: Any, settings: NodeSettings, databases: tuple[Database, Database], store: FileStore,
    position: Position,
) -> FileKeeping:  # fmt: skip
    return FileKeeping.make(
        databases, store, position, reactor, time.time, settings.cache_bytes, settings.scrub_rate
    )


def _siblings(reactor: Any, settings: NodeSettings, secret: NodeSecret, uuid: str) -> Siblings:
    def headers(path: str) -> dict[str, str]:
        return {NODE_HEADER: secret.token_for_followers(uuid, "GET", path)}

    return Siblings(make_direct_agent(reactor), headers, reactor, uuid, settings.region)


def _admission(
    settings: NodeSettings, database: Database, position: Position, secret: NodeSecret
) -> Admission:
    admission = Admission(
        database, lambda: secret.secret, time.time, settings.require_node_keys
    )  # fmt: skip
    with database.engine.begin() as connection:
        admission.take(*admitted(connection))
    position.listen(admission.changed)
    return admission


def _root_password(settings: NodeSettings, database: Database, position: Position) -> RootPassword:
    watched = RootPassword(database, settings.allow_empty_root_password)
    position.listen(watched.changed)
    return watched


def _prepare_folder(state_dir: Path) -> None:
    """Make the state folder, and remove what a process that is gone left half done in it."""
    state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    for scratch in ("scratch", "lists"):
        (state_dir / scratch).mkdir(exist_ok=True)
        shutil.rmtree(state_dir / scratch)
        (state_dir / scratch).mkdir()
    for left_over in state_dir.glob(f".*{TEMPORARY_SUFFIX}"):
        left_over.unlink()


def _open_databases(
    state_dir: Path, pools: Pools, durable: bool, local_tables: Sequence[MetaData]
) -> tuple[Database, Database]:
    _prepare_folder(state_dir)
    engine = open_engine(state_dir / "log.sqlite", changelog.metadata, durable=durable)
    bring_up_to_date(engine)
    local = open_engine(
        state_dir / "local.sqlite",
        freshness.metadata,
        tokenuse.metadata,
        ledger.metadata,
        hosted.metadata,
        scrub.metadata,
        *local_tables,
        durable=False,
    )
    wal = None if durable else WriteAheadLog(state_dir / "log.sqlite")
    return (
        Database(engine, pools.writer, pools.readers, wal),
        Database(local, pools.local, pools.local),
    )


def _head(database: Database) -> tuple[Frontier, Head]:
    with database.engine.begin() as connection:
        return changelog.frontier(connection), queries.head(connection)
