"""A log with its state and search index in one process: what the tests of search stand on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any, cast

import pytest_twisted
from attrs import define, field
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.web.http_headers import Headers

from cluster.auth.acl import ANONYMOUS, Principal
from cluster.log import changelog
from cluster.log.changes import Change, Kind
from cluster.log.merkle import Frontier
from cluster.model import MirrorIndex
from cluster.names import IndexName
from cluster.search.index import SearchIndex
from cluster.simple.cache import PageCache
from cluster.simple.listing import ListPages
from cluster.state import freshness, schema
from cluster.state.apply import apply
from cluster.state.database import Database, open_engine, writing
from cluster.state.freshness import Freshness, Outcome
from cluster.state.position import Head, Position
from cluster.state.rows import Touched
from cluster.threads import Inline
from cluster.upstream.ondemand import MirrorAnswer, OnDemand
from cluster.web.identity import Identity
from cluster.web.legacy import LegacyJson
from cluster.web.request import NodeRequest
from cluster.web.search import SearchPages
from cluster.web.simple import SimplePages
from cluster.web.unlogged import UnloggedFiles
from cluster.web.xmllists import PackageLists
from cluster.web.xmlrpc import XmlRpc
from tests.fakes import NOW, START, as_clock, entry, position

DEV, PYPI, OTHER = IndexName("root/dev"), IndexName("root/pypi"), IndexName("joe/dev")


def index_set(name: str, kind: str = "stage", **options: Any) -> Change:
    """An index with the options that are given."""
    if kind == "mirror":
        options["mirror_url"] = "https://u.example/"
    return Change(Kind.INDEX_SET, {"index": name, "type": kind, "options": options})


def release(name: str, version: str, index: str = DEV, **metadata: object) -> Change:
    """The metadata of a release."""
    pairs = [[key, value] for key, value in {"name": name, **metadata}.items()]
    where = {"index": index, "project": name.lower().replace("_", "-"), "name": name}
    return Change(Kind.RELEASE_SET, {**where, "version": version, "metadata": pairs})


def listed(*names: str, kind: str = "added") -> Change:
    """Names that the mirror's upstream lists, or does not any more."""
    return Change(Kind.MIRROR_LISTING, {"index": PYPI, kind: list(names)})


@define
class Node:
    """A log with its state, and the search index behind it, on a clock that only tests move."""

    folder: Path
    database: Database
    at: Position
    clock: Clock = field(factory=Clock)
    frontier: Frontier = field(factory=Frontier)
    search: SearchIndex = field(init=False)

    def __attrs_post_init__(self) -> None:
        self.search = self.new_index()

    def new_index(self, *, enabled: bool = True) -> SearchIndex:
        """A search index on this node's file."""
        return SearchIndex(
            self.database, self.at, self.folder / "search.sqlite", Inline(), Inline(),
            as_clock(self.clock), enabled,
        )  # fmt: skip

    def log(self, *changes: Change) -> None:
        """Record changes, each as a commit of its own."""
        for change in changes:
            recorded, touched = entry(self.frontier.size + 1, change), Touched()
            with writing(self.database.engine) as connection:
                self.frontier = changelog.append(connection, self.frontier, [recorded])
                apply(connection, recorded, touched)
            self.at.advance(Head(self.frontier.size, 1, b"", None), touched)

    def settle(self) -> None:
        """Let the index catch up."""
        for _ in range(20):
            self.clock.advance(0.25)
        assert self.search.progress is not None
        assert (self.search.progress.serial, self.search.building) == (self.at.serial, False)

    async def names(self, query: str, *indexes: IndexName) -> list[str]:
        """The names of what is found, best first."""
        return [hit.name for hit in await self.search.find(indexes or (DEV, PYPI), query)]


@contextmanager
def running_node(folder: Path) -> Iterator[Node]:
    """A started node with two hosted indexes and a mirror."""
    engine = open_engine(
        folder / "log.sqlite", changelog.metadata, schema.metadata, freshness.metadata
    )
    made = Node(folder, Database(engine, Inline(), Inline()), position())
    made.log(START, index_set(DEV), index_set(PYPI, "mirror"), index_set(OTHER))
    made.search.start()
    made.settle()
    yield made
    pytest_twisted.blockon(Deferred.fromCoroutine(made.search.stop()))
    engine.dispose()


@define
class FakeIdentity:
    """Knows who asks by the name in a header."""

    def node(self, request: FakeRequest) -> None:
        """No request comes from a node."""

    async def reader(self, request: FakeRequest) -> Principal:
        """The user that the request names."""
        name = request.header("User")
        return ANONYMOUS if name is None else Principal(name)


@define
class Upstreams:
    """Answers that nothing is new, and remembers what was asked."""

    asked: list[tuple[str, str]] = field(factory=list)

    async def refresh(
        self, index: MirrorIndex, project: str, known: Freshness | None
    ) -> MirrorAnswer:
        """Nothing new."""
        self.asked.append((index.name, project))
        return MirrorAnswer(Freshness(Outcome.FOUND, NOW, NOW))


@define(eq=False)
class FakeRequest:
    """A request as far as the handlers of these tests look at it; keeps what is answered."""

    path: bytes = b"/"
    body: bytes = b""
    headers: Mapping[str, str] = field(factory=dict)
    args: Mapping[bytes, list[bytes]] = field(factory=dict)
    method: bytes = b"GET"
    code: int = 0
    written: bytes = b""
    finished: bool = False
    transport: None = None
    ended: Deferred[None] = field(factory=Deferred)

    @property
    def uri(self) -> bytes:
        """The path; no test has a query in it."""
        return self.path

    @property
    def content(self) -> BytesIO:
        """The body."""
        return BytesIO(self.body)

    @property
    def requestHeaders(self) -> Headers:
        """The headers as twisted.web has them."""
        return Headers({name: [value] for name, value in self.headers.items()})

    def header(self, name: str) -> str | None:
        """One header."""
        known = {"Host": "node.example:3141", **self.headers}
        return known.get(name)

    def isSecure(self) -> bool:
        """Plain HTTP."""
        return False

    def setResponseCode(self, code: int) -> None:
        """Keep the status."""
        self.code = code

    def setHeader(self, name: str, value: str) -> None:
        """Nobody looks at these."""

    def write(self, data: bytes) -> None:
        """Keep a part of the body."""
        self.written += data

    def finish(self) -> None:
        """The end."""
        self.finished = True
        self.ended.callback(None)

    def notifyFinish(self) -> Deferred[None]:
        """Fires at the end."""
        return self.ended

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        """Never pause."""

    def unregisterProducer(self) -> None:
        """Nothing to forget."""

    def real(self) -> NodeRequest:
        """Itself, in the type that handlers want."""
        return cast(NodeRequest, self)


@define
class Web:
    """The handlers of a node, around its state and its search."""

    node: Node
    upstreams: Upstreams = field(factory=Upstreams)
    legacy: LegacyJson = field(init=False)
    xmlrpc: XmlRpc = field(init=False)
    search: SearchPages = field(init=False)

    def __attrs_post_init__(self) -> None:
        node, clock = self.node, as_clock(self.node.clock)
        identity = cast(Identity, FakeIdentity())
        mirror = OnDemand(self.upstreams, node.database, clock, lambda: NOW)
        lists = ListPages(node.database, clock, node.folder / "lists", lambda: node.at.serial)
        simple = SimplePages(
            node.database, node.at, clock, lambda: NOW, PageCache(1 << 20), lists, mirror,
            UnloggedFiles(), identity,
        )  # fmt: skip
        self.legacy = LegacyJson(node.database, simple, identity, None)
        self.xmlrpc = XmlRpc(
            node.database, node.at, identity, node.search, self.legacy,
            PackageLists(node.database, node.folder / "lists"), mirror, Inline(),
        )  # fmt: skip
        self.search = SearchPages(node.database, identity, node.search, mirror)
