"""Other nodes as sources: asked in a good order, left alone when they fail, never in a circle."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from attrs import define, field
from twisted.internet.task import Clock
from twisted.web.client import Agent, HTTPConnectionPool

from cluster.errors import NotFound, UpstreamError
from cluster.files.fetch import Fetcher
from cluster.files.siblings import MOST_ASKED, Sibling, Siblings
from cluster.files.sources import Wanted
from cluster.files.store import FileStore
from cluster.web.nodefiles import serve_node_file
from tests.fakes import as_clock
from tests.file_servers import ScriptedSource, body, listening, open_store, reactor, status

DATA = bytes(range(251)) * 8000
SHA256 = hashlib.sha256(DATA).hexdigest()
WANTED = Wanted("a-1.whl", sha256=SHA256, size=len(DATA))


def node(uuid: str, url: str | None, region: str | None = None, role: str = "replica") -> Any:
    return {"uuid": uuid, "url": url, "region": region, "role": role}


def siblings(*nodes: Any, clock: Any = reactor, region: str | None = None) -> Siblings:
    agent: Any = Agent(reactor, pool=HTTPConnectionPool(reactor, persistent=False))
    return Siblings(agent, lambda path: {"X-Asked": path}, clock, "me", region, lambda: nodes)


def names(of: Siblings, digest: str = SHA256) -> list[str]:
    return [source.name for source in of.sources(digest, 16)]


def test_who_is_a_sibling() -> None:
    """Replicas that can be reached, not the primary, not this node; two are asked at most."""
    of = siblings(
        node("p", "http://p.example", role="primary"), node("me", "http://me.example"),
        node("a", "http://a.example/"), node("b", None), node("c", "http://c.example"),
        node("d", "http://d.example"),
    )  # fmt: skip
    assert {m.url for m in of.members} == {
        "http://a.example", "http://c.example", "http://d.example",
    }  # fmt: skip
    assert len(of.sources(SHA256)) == MOST_ASKED


def test_near_and_fast_ones_first() -> None:
    """The same region first, then measured speed; equals share the files among them."""
    clock = Clock()
    a, b, c = (
        node(u, f"http://{u}.example", r) for u, r in (("a", "eu"), ("b", "us"), ("c", "eu"))
    )
    of = siblings(a, b, c, clock=as_clock(clock), region="eu")
    assert names(of)[2] == "sibling http://b.example"
    firsts = {names(of, hashlib.sha256(bytes([n])).hexdigest())[0] for n in range(40)}
    assert firsts == {"sibling http://a.example", "sibling http://c.example"}
    for _ in range(20):
        of.delivered(Sibling("c", "http://c.example"), 100 << 20, 1.0)
        of.delivered(Sibling("a", "http://a.example"), 1 << 20, 1.0)
    assert names(of)[:2] == ["sibling http://c.example", "sibling http://a.example"]


def test_failures_drop_a_sibling_for_a_while() -> None:
    """Longer each time, and a success ends it."""
    clock = Clock()
    of = siblings(node("a", "http://a.example"), clock=as_clock(clock))
    a = of.members[0]
    for seconds in (5, 10, 20):
        of.failed(a)
        assert names(of) == []
        clock.advance(seconds - 1)
        assert names(of) == []
        clock.advance(1)
        assert names(of) == ["sibling http://a.example"]
    of.failed(a)
    assert of.document()[0]["failures"] == 4
    of.delivered(a, 1, 1.0)
    assert names(of) == ["sibling http://a.example"]


@asynccontextmanager
async def other_node(root: Path) -> AsyncIterator[tuple[str, FileStore, Fetcher, list[str]]]:
    """A node that serves its files to other nodes, and what it was asked for."""
    asked: list[str] = []
    async with AsyncExitStack() as stack:
        store = await stack.enter_async_context(open_store(root))
        fetcher = Fetcher(store, reactor, lambda *_: None)

        def render(request: Any) -> None:
            from twisted.internet.defer import Deferred

            asked.append(request.path.decode())
            name = request.path.decode().rpartition("/")[2]

            def failed(failure: Any) -> None:
                request.setResponseCode(404 if failure.check(NotFound) else 500)
                request.finish()

            work = serve_node_file(request, store, fetcher, name)
            Deferred.fromCoroutine(work).addErrback(failed)

        url = await stack.enter_async_context(listening(render))
        yield url, store, fetcher, asked
        await fetcher.stop()


@define
class Here:
    """This node: its store and what failed."""

    store: FileStore
    fetcher: Fetcher
    failures: list[str] = field(factory=list)


@asynccontextmanager
async def this_node(root: Path) -> AsyncIterator[Here]:
    async with open_store(root) as store:
        failures: list[str] = []
        here = Here(store, Fetcher(store, reactor, lambda n, _, why: failures.append(n)), failures)
        yield here
        await here.fetcher.stop()


@pytest_twisted.ensureDeferred
async def test_a_sibling_gives_what_it_has(tmp_path: Path) -> None:
    """A stored file comes from the sibling, with a node's headers; it fetched nothing for that."""
    async with (
        other_node(tmp_path / "a") as (url, store, _, asked),
        this_node(tmp_path / "b") as it,
    ):
        await store.add_bytes(DATA)
        of = siblings(node("a", url))
        await it.fetcher.start(WANTED, of.sources(SHA256)).done()
        assert asked == [f"/+node/file/{SHA256}"]
        assert store.counters.misses == 0
        assert it.failures == []


@pytest_twisted.ensureDeferred
async def test_a_sibling_without_the_file_is_passed_over(tmp_path: Path) -> None:
    """A 404 is no failure: the next source is asked, and the sibling keeps its good name."""
    primary = ScriptedSource(body(DATA))
    async with (
        other_node(tmp_path / "a") as (url, _, _, asked),
        primary.running() as source,
        this_node(tmp_path / "b") as it,
    ):
        of = siblings(node("a", url))
        await it.fetcher.start(WANTED, [*of.sources(SHA256), source]).done()
        assert len(asked) == 1
        assert it.failures == []
        assert of.document()[0]["failures"] == 0


@pytest_twisted.ensureDeferred
async def test_what_arrives_is_passed_on_once(tmp_path: Path) -> None:
    """A file that comes from the primary is given to a sibling while it arrives; what comes from
    that sibling is given to nobody before it is whole, so no circle can close."""
    primary = ScriptedSource()
    async with (
        other_node(tmp_path / "a") as (first_url, _, first, _),
        other_node(tmp_path / "b") as (second_url, _, second, _),
        primary.running() as source,
        this_node(tmp_path / "c") as it,
    ):
        at_first = first.start(WANTED, [source])
        request = await primary.request()
        request.setHeader("Content-Length", str(len(DATA)))
        request.write(DATA[:100_000])
        await (await at_first.arrival()).wait_beyond(0)
        at_second = second.start(WANTED, siblings(node("a", first_url)).sources(SHA256))
        await (await at_second.arrival()).wait_beyond(0)
        by_sibling = siblings(node("b", second_url)).sources(SHA256)
        by_primary = siblings(node("a", first_url)).sources(SHA256, arriving=False)
        for asked in (by_sibling, by_primary):
            transfer = it.fetcher.start(WANTED, asked)
            with pytest.raises(UpstreamError):
                await transfer.done()
        request.write(DATA[100_000:])
        request.finish()
        assert (await at_second.done()).sha256 == SHA256
        assert len(primary.requests) == 1


@pytest.mark.parametrize("script", [status(500), lambda r: r.channel.loseConnection()])
@pytest_twisted.ensureDeferred
async def test_a_broken_sibling(tmp_path: Path, script: Callable[[Any], None]) -> None:
    """Errors and broken connections are failures of that sibling alone."""
    broken, good = ScriptedSource(script), ScriptedSource(body(DATA))
    async with broken.running(), good.running() as source, this_node(tmp_path) as it:
        of = siblings(node("a", broken.url))
        await it.fetcher.start(WANTED, [*of.sources(SHA256), source]).done()
        assert of.document()[0]["failures"] == 1
        assert of.sources(SHA256) == []


@pytest_twisted.ensureDeferred
async def test_a_slow_sibling_is_left_in_the_middle(tmp_path: Path) -> None:
    """Who sends almost nothing for ten seconds is given up; the rest comes from the next."""
    clock = Clock()
    slow, good = ScriptedSource(), ScriptedSource(body(DATA))
    async with slow.running(), good.running() as source, this_node(tmp_path) as it:
        of = siblings(node("a", slow.url), clock=as_clock(clock))
        transfer = it.fetcher.start(WANTED, [*of.sources(SHA256), source])
        request = await slow.request()
        request.setHeader("Content-Length", str(len(DATA)))
        request.write(DATA[:100])
        arrival = await transfer.arrival()
        await arrival.wait_beyond(0)
        clock.advance(11)
        request.write(DATA[100:200])
        assert await arrival.wait_beyond(len(DATA) - 1) == len(DATA)
        assert it.failures == [f"sibling {slow.url.rstrip('/')}"]
        assert of.sources(SHA256) == []
