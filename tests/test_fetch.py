"""Fetching over real sockets: one fetch per file, sources in order, nothing unverified kept."""

from __future__ import annotations

import hashlib
import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from attrs import define, evolve, field
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock, deferLater

from cluster.errors import DigestMismatch, InvalidRequest, NotFound, Unavailable, UpstreamError
from cluster.files import fetch as fetch_module
from cluster.files import sink as sink_module
from cluster.files.fetch import Fetcher
from cluster.files.sink import Digests, HashingSink
from cluster.files.sources import BodySink, HttpSource, SourceError, Wanted
from cluster.files.store import FileStore
from tests.file_servers import ScriptedSource, body, files_below, open_store, reactor, status

DATA = bytes(range(251)) * 8000
SHA256 = hashlib.sha256(DATA).hexdigest()
WRONG = DATA[:-1] + b"!"
WANTED = Wanted("a-1.whl", sha256=SHA256, size=len(DATA))


@define
class Site:
    """A fetcher, its store and the failures it told of."""

    store: FileStore
    fetcher: Fetcher
    servers: list[ScriptedSource]
    sources: list[HttpSource]
    failures: list[tuple[str, str]] = field(factory=list)


@asynccontextmanager
async def site(root: Path, *servers: ScriptedSource, clock: Any = reactor) -> AsyncIterator[Site]:
    failures: list[tuple[str, str]] = []
    async with AsyncExitStack() as stack:
        store = await stack.enter_async_context(open_store(root))
        sources = [await stack.enter_async_context(server.running()) for server in servers]
        fetcher = Fetcher(store, clock, lambda name, _, reason: failures.append((name, reason)))
        yield Site(store, fetcher, list(servers), sources, failures)
        await fetcher.stop()
        assert list((root / "tmp").iterdir()) == []


def turn() -> Deferred[None]:
    """Let the reactor go round once, for threads and sockets."""
    return deferLater(reactor, 0.001)


def start(work: Any) -> Deferred[Any]:
    """Run a coroutine beside the test."""
    return Deferred.fromCoroutine(work)


@pytest_twisted.ensureDeferred
async def test_a_file_is_fetched_and_kept(tmp_path: Path) -> None:
    """The bytes are in the store before done() says so, and identity encoding was asked for."""
    async with site(tmp_path, ScriptedSource(body(DATA))) as it:
        transfer = it.fetcher.start(WANTED, it.sources)
        assert await transfer.headers() == len(DATA)
        digests = await transfer.done()
        assert (digests.sha256, digests.size) == (SHA256, len(DATA))
        assert it.store.path(SHA256).read_bytes() == DATA
        request = it.servers[0].requests[0]
        assert request.requestHeaders.getRawHeaders("Accept-Encoding") == ["identity"]
        assert it.failures == []


@pytest_twisted.ensureDeferred
async def test_fifty_wishes_are_one_fetch(tmp_path: Path) -> None:
    """However many want a file, its source is asked once; afterwards a new wish asks anew."""
    async with site(tmp_path, ScriptedSource()) as it:
        transfers = [it.fetcher.start(WANTED, it.sources) for _ in range(50)]
        body(DATA)(await it.servers[0].request())
        for transfer in transfers:
            assert (await transfer.done()).sha256 == SHA256
        assert len(it.servers[0].requests) == 1
        assert it.store.counters.misses == 50
        it.servers[0].script = body(DATA)
        await it.fetcher.start(WANTED, it.sources).done()
        assert len(it.servers[0].requests) == 2


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        (body(WRONG), f"sha256 is {hashlib.sha256(WRONG).hexdigest()}, not {SHA256}"),
        (body(DATA[:-5]), f"has {len(DATA) - 5} bytes instead of {len(DATA)}"),
        (body(DATA + b"more"), f"has {len(DATA) + 4} bytes instead of {len(DATA)}"),
        (body(DATA[: len(DATA) // 2], len(DATA)), "cut off"),
        (status(404), "answers 404"),
        (status(500), "answers 500"),
        (status(206), "answers 206"),
    ],
)
@pytest_twisted.ensureDeferred
async def test_a_bad_source_is_replaced(tmp_path: Path, script: Any, reason: str) -> None:
    """Wrong bytes, wrong lengths, cuts and refusals are told of, and the next source delivers."""
    async with site(tmp_path, ScriptedSource(script), ScriptedSource(body(DATA))) as it:
        digests = await it.fetcher.start(WANTED, it.sources).done()
        assert digests.sha256 == SHA256
        [(name, told)] = it.failures
        assert name == it.sources[0].name
        assert reason in told
        assert files_below(tmp_path) == [it.store.path(SHA256)]


@pytest_twisted.ensureDeferred
async def test_endless_bodies_are_cut(tmp_path: Path) -> None:
    """A body without a length is dropped at the first byte beyond the size that is known."""
    async with site(tmp_path, ScriptedSource()) as it:
        transfer = it.fetcher.start(WANTED, it.sources)
        request = await it.servers[0].request()
        left: Deferred[Any] = request.notifyFinish()
        request.write(DATA + b"more")
        with pytest.raises(UpstreamError, match="more than the"):
            await transfer.done()
        with pytest.raises(Exception, match=r"lost|closed"):
            await left
        assert files_below(tmp_path) == []


@pytest_twisted.ensureDeferred
async def test_no_source_left(tmp_path: Path) -> None:
    """When all fail, everyone gets an error; when all say 404, it is NotFound."""
    async with site(tmp_path, ScriptedSource(status(404)), ScriptedSource(status(410))) as it:
        with pytest.raises(NotFound):
            await it.fetcher.start(WANTED, it.sources).done()
        it.servers[1].script = status(503)
        transfer = it.fetcher.start(WANTED, it.sources)
        with pytest.raises(UpstreamError, match=r"404.*503"):
            await transfer.headers()
        with pytest.raises(UpstreamError, match="no source is known"):
            await it.fetcher.start(WANTED, []).done()
        assert files_below(tmp_path) == []


@pytest_twisted.ensureDeferred
async def test_a_source_that_refuses_connections(tmp_path: Path) -> None:
    """A server that is gone fails, and no reason ever shows credentials of a URL."""
    async with site(tmp_path, ScriptedSource(), ScriptedSource(body(DATA))) as it:
        agent: Any = it.sources[1]._agent
        gone = HttpSource("gone", agent, lambda _: "http://127.0.0.1:9/a")
        leaky = HttpSource("leaky", agent, lambda _: "http://user:secret@127.0.0.1:9/a")
        nothing = HttpSource("nothing", agent, lambda _: None)
        await it.fetcher.start(WANTED, [nothing, gone, leaky, it.sources[1]]).done()
        (name, reason), (_, guarded) = it.failures
        assert name == "gone"
        assert "refused" in reason
        assert "secret" not in guarded


@pytest_twisted.ensureDeferred
async def test_a_file_without_digest(tmp_path: Path) -> None:
    """A file known by its URL is fetched once per URL; what it is comes out at the end."""
    wanted = Wanted("b-1.whl", url="http://files.example/b-1.whl")
    async with site(tmp_path, ScriptedSource()) as it:
        transfer = it.fetcher.start(wanted, it.sources)
        assert it.fetcher.start(wanted, it.sources) is transfer
        request = await it.servers[0].request()
        request.write(DATA)
        assert await transfer.headers() is None
        request.finish()
        digests = await transfer.done()
        assert (digests.sha256, digests.size) == (SHA256, len(DATA))
        assert it.store.path(SHA256).exists()


@pytest_twisted.ensureDeferred
async def test_other_hashes_are_checked(tmp_path: Path) -> None:
    """Without a sha256 every digest that upstream gave must fit; names we lack are passed over."""
    md5 = hashlib.md5(DATA, usedforsecurity=False).hexdigest()
    url = "http://files.example/b-1.whl"
    good = Wanted("b-1.whl", hashes={"md5": md5, "whirlpool": "ab" * 64}, url=url)
    bad = Wanted("b-1.whl", hashes={"md5": "0" * 32}, url=url)
    async with site(tmp_path, ScriptedSource(body(DATA))) as it:
        with pytest.raises(UpstreamError, match=f"md5 is {md5}"):
            await it.fetcher.start(bad, it.sources).done()
        assert files_below(tmp_path) == []
        assert (await it.fetcher.start(good, it.sources).done()).sha256 == SHA256


@pytest_twisted.ensureDeferred
async def test_an_end_that_may_be_a_cut(tmp_path: Path) -> None:
    """A body that ends with its connection counts only if its size or digest is known."""

    def without_length(request: Any) -> None:
        request.channel.transport.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + DATA)
        request.channel.loseConnection()

    async with site(tmp_path, ScriptedSource(without_length)) as it:
        unknown = Wanted("b-1.whl", url="http://files.example/b-1.whl")
        with pytest.raises(UpstreamError, match="cut off"):
            await it.fetcher.start(unknown, it.sources).done()
        assert (await it.fetcher.start(WANTED, it.sources).done()).sha256 == SHA256


@pytest_twisted.ensureDeferred
async def test_bytes_are_readable_while_they_arrive_except_the_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Readers get what is there at once, and the last byte only when the file is in the store."""
    stored: Deferred[None] = Deferred()
    add = FileStore.add

    async def add_later(store: FileStore, sink: HashingSink, *, fetched: bool = False) -> Digests:
        await stored
        return await add(store, sink, fetched=fetched)

    monkeypatch.setattr(FileStore, "add", add_later)
    async with site(tmp_path, ScriptedSource()) as it:
        transfer = it.fetcher.start(WANTED, it.sources)
        request = await it.servers[0].request()
        request.setHeader("Content-Length", str(len(DATA)))
        request.write(DATA[:1000])
        arrival = await transfer.arrival()
        assert await arrival.wait_beyond(0) == 1000
        last = start(arrival.wait_beyond(len(DATA) - 1))
        request.write(DATA[1000:])
        ready = 1000
        while ready < len(DATA) - 1:
            ready = await arrival.wait_beyond(ready)
        assert ready == len(DATA) - 1
        assert not last.called
        stored.callback(None)
        assert await last == len(DATA)
        assert it.store.path(SHA256).exists()


@pytest_twisted.ensureDeferred
async def test_readers_of_wrong_bytes_are_told(tmp_path: Path) -> None:
    """Who read from a source that turns out wrong gets an error, not an end; the next is good."""
    async with site(tmp_path, ScriptedSource(), ScriptedSource(body(DATA))) as it:
        transfer = it.fetcher.start(WANTED, it.sources)
        request = await it.servers[0].request()
        request.setHeader("Content-Length", str(len(DATA)))
        request.write(WRONG[:-1])
        arrival = await transfer.arrival()
        assert await arrival.wait_beyond(0) > 0
        waiting = start(arrival.wait_beyond(len(DATA) - 1))
        request.write(WRONG[-1:])
        request.finish()
        with pytest.raises(DigestMismatch):
            await waiting
        with pytest.raises(DigestMismatch):
            await arrival.wait_beyond(0)
        assert (await transfer.done()).sha256 == SHA256
        assert await (await transfer.arrival()).wait_beyond(len(DATA) - 1) == len(DATA)


@pytest_twisted.ensureDeferred
async def test_a_source_that_never_answers(tmp_path: Path) -> None:
    """No answer within the idle time: the next source is asked."""
    clock = Clock()
    async with site(tmp_path, ScriptedSource(), ScriptedSource(body(DATA)), clock=clock) as it:
        transfer = it.fetcher.start(WANTED, it.sources)
        await it.servers[0].request()
        clock.advance(29)
        assert it.failures == []
        clock.advance(1)
        assert (await transfer.done()).sha256 == SHA256
        assert it.failures == [(it.sources[0].name, "no answer within 30 s")]
        assert clock.getDelayedCalls() == []


@pytest_twisted.ensureDeferred
async def test_a_source_that_stalls(tmp_path: Path) -> None:
    """Each byte renews the patience; without one for the idle time the next source is asked."""
    clock = Clock()
    async with site(tmp_path, ScriptedSource(), ScriptedSource(body(DATA)), clock=clock) as it:
        transfer = it.fetcher.start(WANTED, it.sources)
        request = await it.servers[0].request()
        left = request.notifyFinish()
        request.setHeader("Content-Length", str(len(DATA)))
        for at in range(3):
            request.write(DATA[at : at + 1])
            arrival = await transfer.arrival()
            await arrival.wait_beyond(at)
            clock.advance(29)
        assert it.failures == []
        clock.advance(1)
        assert (await transfer.done()).sha256 == SHA256
        assert it.failures == [(it.sources[0].name, "no byte for 30 s")]
        assert clock.getDelayedCalls() == []
        with pytest.raises(Exception, match=r"lost|closed"):
            await left


@pytest_twisted.ensureDeferred
async def test_our_full_disk_is_not_the_source_s_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When our disk refuses, no other source is asked and none is blamed."""

    def full(fd: int, data: bytes) -> None:
        raise OSError(28, "No space left on device")

    async with site(tmp_path, ScriptedSource(body(DATA)), ScriptedSource(body(DATA))) as it:
        monkeypatch.setattr(sink_module, "write_all", full)
        with pytest.raises(Unavailable, match="No space left"):
            await it.fetcher.start(WANTED, it.sources).done()
        assert it.servers[1].requests == []
        assert it.failures == []
        monkeypatch.undo()
        assert (await it.fetcher.start(WANTED, it.sources).done()).sha256 == SHA256


@pytest_twisted.ensureDeferred
async def test_stopping_drops_what_is_under_way(tmp_path: Path) -> None:
    """stop() ends running fetches, fails those who wait, and leaves no temporary file."""
    async with site(tmp_path, ScriptedSource(), ScriptedSource(body(DATA))) as it:
        transfer = it.fetcher.start(WANTED, it.sources)
        request = await it.servers[0].request()
        request.write(DATA[:1000])
        await (await transfer.arrival()).wait_beyond(999)
        await it.fetcher.stop()
        with pytest.raises(Unavailable, match="shutting down"):
            await transfer.done()
        assert files_below(tmp_path) == []
        assert it.servers[1].requests == []


@pytest_twisted.ensureDeferred
async def test_a_source_with_a_bug(tmp_path: Path) -> None:
    """An exception that no source should raise fails that source alone."""

    class Broken:
        name = "broken"

        async def open(self, wanted: Wanted) -> None:
            raise ZeroDivisionError("oops")

    class Body:
        length = None
        start = 0
        etag = None
        passes_on = True
        kept = True

        async def deliver(self, sink: BodySink) -> None:
            sink.write(DATA[:10])
            raise SourceError("gave up")

        def abort(self) -> None:
            """Nothing to close."""

    class Short:
        name = "short"

        async def open(self, wanted: Wanted) -> Body:
            return Body()

    async with site(tmp_path, ScriptedSource(body(DATA))) as it:
        await it.fetcher.start(WANTED, [Broken(), Short(), *it.sources]).done()
        assert it.failures == [("broken", "ZeroDivisionError: oops"), ("short", "gave up")]


def test_a_wish_needs_a_name() -> None:
    """A file without digest and without URL cannot be asked for."""
    with pytest.raises(InvalidRequest):
        Wanted("a-1.whl")


HALF = len(DATA) // 2


def ranged(data: bytes, *, cut: int | None = None, etag: str | None = None) -> Any:
    """A script of a server that knows ranges; it hangs up after `cut` bytes of the file."""

    def send(request: Any) -> None:
        wanted = request.requestHeaders.getRawHeaders("Range")
        held = request.requestHeaders.getRawHeaders("If-Range", [etag])[0] == etag
        start = int(wanted[0].removeprefix("bytes=").rstrip("-")) if wanted and held else 0
        if start:
            request.setResponseCode(206)
            request.setHeader("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        if etag is not None:
            request.setHeader("ETag", etag)
        body(data[start:cut], len(data) - start)(request)

    return send


def asked_range(request: Any) -> str | None:
    values: list[str] | None = request.requestHeaders.getRawHeaders("Range")
    return values[0] if values else None


@pytest_twisted.ensureDeferred
async def test_a_cut_goes_on_at_the_next_source(tmp_path: Path) -> None:
    """The next source is asked for the rest alone; who reads along is not broken off."""
    servers = ScriptedSource(ranged(DATA, cut=HALF)), ScriptedSource()
    async with site(tmp_path, *servers) as it:
        transfer = it.fetcher.start(WANTED, it.sources)
        arrival = await transfer.arrival()
        last = start(arrival.wait_beyond(len(DATA) - 1))
        request = await it.servers[1].request()
        assert asked_range(request) == f"bytes={transfer.bytes_here}-"
        assert 0 < transfer.bytes_here <= HALF
        ranged(DATA)(request)
        assert await last == len(DATA)
        assert (await transfer.done()).sha256 == SHA256
        assert await transfer.arrival() is arrival
        assert len(it.failures) == 1


@pytest_twisted.ensureDeferred
async def test_a_cut_goes_on_at_the_same_source(tmp_path: Path) -> None:
    """A single source that breaks off again and again is asked for the rest as long as it helps."""
    cuts = iter([HALF // 2, HALF, HALF + 1000, None])

    def script(request: Any) -> None:
        ranged(DATA, cut=next(cuts))(request)

    async with site(tmp_path, ScriptedSource(script)) as it:
        assert (await it.fetcher.start(WANTED, it.sources).done()).sha256 == SHA256
        assert [asked_range(request) is None for request in it.servers[0].requests] == [
            True, False, False, False,
        ]  # fmt: skip
        assert files_below(tmp_path) == [it.store.path(SHA256)]


@pytest_twisted.ensureDeferred
async def test_a_source_without_ranges_goes_on_too(tmp_path: Path) -> None:
    """Who answers with the whole file is read past what is here; readers see one body."""
    servers = ScriptedSource(ranged(DATA, cut=HALF)), ScriptedSource(body(DATA))
    async with site(tmp_path, *servers) as it:
        transfer = it.fetcher.start(WANTED, it.sources)
        arrival = await transfer.arrival()
        assert await arrival.wait_beyond(len(DATA) - 1) == len(DATA)
        assert it.store.path(SHA256).read_bytes() == DATA


@pytest_twisted.ensureDeferred
async def test_without_a_digest_the_entity_tag_decides(tmp_path: Path) -> None:
    """A file known by its URL goes on only at the same server, if it is still the same there."""
    wanted = Wanted("b-1.whl", url="http://files.example/b-1.whl")
    other = b"x" * len(DATA)
    scripts = iter([ranged(DATA, cut=HALF, etag='"1"'), ranged(DATA, etag='"1"')])
    async with site(tmp_path, ScriptedSource(lambda r: next(scripts)(r))) as it:
        assert (await it.fetcher.start(wanted, it.sources).done()).sha256 == SHA256
        assert asked_range(it.servers[0].requests[1]) is not None
    scripts = iter([ranged(DATA, cut=HALF, etag='"1"'), ranged(other, etag='"2"')])
    async with site(tmp_path / "2", ScriptedSource(lambda r: next(scripts)(r))) as it:
        transfer = it.fetcher.start(wanted, it.sources)
        arrival = await transfer.arrival()
        with pytest.raises(UpstreamError, match="began anew"):
            await arrival.wait_beyond(len(DATA) - 1)
        assert (await transfer.done()).sha256 == hashlib.sha256(other).hexdigest()


@pytest_twisted.ensureDeferred
async def test_a_wrong_beginning_is_not_the_next_source_s_fault(tmp_path: Path) -> None:
    """When the halves of two sources do not fit, each is asked alone before the fetch fails."""
    bad, good = ScriptedSource(ranged(b"!" + DATA[1:], cut=HALF)), ScriptedSource(ranged(DATA))
    async with site(tmp_path, bad, good) as it:
        assert (await it.fetcher.start(WANTED, it.sources).done()).sha256 == SHA256
        assert asked_range(it.servers[1].requests[0]) is not None
        assert it.store.path(SHA256).read_bytes() == DATA


@pytest_twisted.ensureDeferred
async def test_readers_wait_for_a_source_that_comes_back(tmp_path: Path) -> None:
    """Nobody left to ask, but half of the file here: after a pause it is tried once more."""
    clock = Clock()
    scripts = iter([ranged(DATA, cut=HALF), lambda r: r.channel.loseConnection(), ranged(DATA)])
    async with site(tmp_path, ScriptedSource(lambda r: next(scripts)(r)), clock=clock) as it:
        transfer = it.fetcher.start(WANTED, it.sources)
        arrival = await transfer.arrival()
        whole = start(arrival.wait_beyond(len(DATA) - 1))
        await it.servers[0].request(2)
        while 0.5 not in {call.time for call in clock.getDelayedCalls()}:
            await turn()
        clock.advance(0.5)
        assert await whole == len(DATA)
        assert (await transfer.done()).sha256 == SHA256


@pytest_twisted.ensureDeferred
async def test_what_nobody_vouches_for_is_passed_on_and_dropped(tmp_path: Path) -> None:
    """A source that is not `kept` serves those who read now; nothing gets into the store."""
    wanted = Wanted("b-1.whl", url="http://files.example/b-1.whl")
    clock = Clock()
    async with site(tmp_path, ScriptedSource(body(DATA)), clock=clock) as it:
        transfer = it.fetcher.start(wanted, [evolve(it.sources[0], kept=False)])
        arrival = await transfer.arrival()
        assert await arrival.wait_beyond(0) > 0
        fd = arrival.open_file()
        assert transfer.is_unverified
        await transfer.done()
        assert os.pread(fd, len(DATA), 0) == DATA
        os.close(fd)
        assert await it.store.size_of(SHA256) is None
        assert [path.parent.name for path in files_below(tmp_path)] == ["tmp"]
        clock.advance(fetch_module.PASSING_SECONDS)
        while files_below(tmp_path):
            await turn()
