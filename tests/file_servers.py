"""A file source under the test's control, and a client that tells broken bodies from whole ones."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from attrs import define, field
from twisted.internet import reactor as _reactor
from twisted.internet.protocol import Protocol
from twisted.python.failure import Failure
from twisted.web.client import Agent, HTTPConnectionPool, ResponseDone
from twisted.web.http_headers import Headers
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Request, Site

from cluster.files.sources import HttpSource
from cluster.files.store import FileStore
from cluster.files.waiting import Broadcast
from cluster.threads import Threads

reactor: Any = _reactor


class _Leaf(Resource):
    isLeaf = True

    def __init__(self, render: Callable[[Request], None]) -> None:
        super().__init__()  # type: ignore[no-untyped-call,unused-ignore]
        self._render = render

    def render(self, request: Request) -> int:
        self._render(request)
        return NOT_DONE_YET


@asynccontextmanager
async def listening(render: Callable[[Any], None]) -> AsyncIterator[str]:
    """A server on a free loopback port; `render` answers each request. Yields its URL."""
    site: Any = Site(_Leaf(render))
    site.log = lambda _: None
    port = reactor.listenTCP(0, site, interface="127.0.0.1")
    try:
        yield f"http://127.0.0.1:{port.getHost().port}/"
    finally:
        await port.stopListening()


@define(eq=False)
class ScriptedSource:
    """A source server: the test answers each request, or `script` does."""

    script: Callable[[Any], None] | None = None
    requests: list[Any] = field(factory=list)
    url: str = ""
    _came: Broadcast = field(factory=Broadcast)

    def render(self, request: Any) -> None:
        self.requests.append(request)
        # Without a listener, the client's leaving would be an unhandled error.
        request.notifyFinish().addErrback(lambda _: None)
        self._came.wake()
        if self.script is not None:
            self.script(request)

    async def request(self, number: int = 1) -> Any:
        """The nth request, once it is here."""
        while len(self.requests) < number:
            await self._came.wait()
        return self.requests[number - 1]

    @asynccontextmanager
    async def running(self) -> AsyncIterator[HttpSource]:
        """Listen, and give the source that fetches from here."""
        async with listening(self.render) as self.url:
            agent: Any = Agent(reactor, pool=HTTPConnectionPool(reactor, persistent=False))
            yield HttpSource(f"at {self.url}", agent, lambda wanted: self.url + wanted.filename)


def body(data: bytes, length: int | None = None) -> Callable[[Any], None]:
    """A script that sends `data` under a Content-Length that may be another one."""

    def send(request: Any) -> None:
        request.setHeader("Content-Length", str(len(data) if length is None else length))
        request.write(data)
        if length is None or length == len(data):
            request.finish()
        else:
            request.channel.loseConnection()

    return send


def status(code: int) -> Callable[[Any], None]:
    """A script that answers with a bare status."""

    def send(request: Any) -> None:
        request.setResponseCode(code)
        request.finish()

    return send


class Download(Protocol):
    """A response as it comes; `whole` is None until it ends."""

    def __init__(self) -> None:
        self.code = 0
        self.headers = Headers()
        self.received = bytearray()
        self.whole: bool | None = None
        self._news = Broadcast()

    def dataReceived(self, data: bytes) -> None:
        self.received += data
        self._news.wake()

    def connectionLost(self, reason: Failure | None = None) -> None:
        self.whole = reason is not None and isinstance(reason.value, ResponseDone)
        self._news.wake()

    def header(self, name: str) -> str | None:
        values = self.headers.getRawHeaders(name)
        return values[0] if values else None

    async def at_least(self, count: int) -> bytes:
        """Wait until that many bytes are here; fails if the body ends before."""
        while len(self.received) < count:
            assert self.whole is None, f"ended after {len(self.received)} of {count} bytes"
            await self._news.wait()
        return bytes(self.received)

    async def ended(self) -> bytes:
        """Wait for the end, good or bad."""
        while self.whole is None:
            await self._news.wait()
        return bytes(self.received)

    def leave(self) -> None:
        """Close the connection."""
        connection: Any = self.transport
        connection.loseConnection()


async def get(url: str, headers: Mapping[str, str] | None = None, method: str = "GET") -> Download:
    """Send a request; returns when its headers are there."""
    agent: Any = Agent(reactor, pool=HTTPConnectionPool(reactor, persistent=False))
    fields = Headers({name: [value] for name, value in (headers or {}).items()})
    response = await agent.request(method.encode(), url.encode(), fields)
    download = Download()
    download.code, download.headers = response.code, response.headers
    response.deliverBody(download)
    return download


@asynccontextmanager
async def open_store(root: Path) -> AsyncIterator[FileStore]:
    """A store with real threads."""
    threads = Threads(reactor, 4, "test")
    threads.start()
    store = FileStore(root, threads)
    await store.open()
    try:
        yield store
        await store.counted()  # by a thread that has the folder open
        assert open_below(root) == []
    finally:
        threads.stop()


def open_below(root: Path) -> list[str]:
    """The files below `root` that this process holds open."""
    found = []
    for fd in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{fd}")
        except FileNotFoundError:
            continue
        if target.startswith(str(root)):
            found.append(target)
    return found


def files_below(root: Path) -> list[Path]:
    """All regular files below `root`."""
    return sorted(path for path in root.rglob("*") if path.is_file())
