"""Files over real sockets: conditions, ranges, files that are still arriving, broken bodies."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from attrs import define, field
from twisted.internet.defer import Deferred, gatherResults

from cluster.errors import PymirrorError, UpstreamError
from cluster.files.fetch import Fetcher
from cluster.files.sources import HttpSource, Wanted
from cluster.files.store import FileStore
from cluster.web.filebody import CHUNK_BYTES, send_file_at, send_stored, send_transfer
from cluster.web.fileplan import IMMUTABLE, FileFacts
from tests.file_servers import (
    Download,
    ScriptedSource,
    body,
    files_below,
    get,
    listening,
    open_below,
    open_store,
    reactor,
)

DATA = bytes(range(251)) * 8000
SHA256 = hashlib.sha256(DATA).hexdigest()
EMPTY = hashlib.sha256(b"").hexdigest()
DATE = 1_700_000_000
HTTP_DATE = "Tue, 14 Nov 2023 22:13:20 GMT"
WANTED = Wanted("a-1.whl", sha256=SHA256, size=len(DATA))
UNKNOWN = Wanted("b-1.whl", url="http://files.example/b-1.whl")


@define(eq=False)
class Node:
    """Serves ``/<sha256>`` from the store, ``/fetch`` by fetching `wanted`, ``/at`` from a path."""

    store: FileStore
    fetcher: Fetcher
    sources: list[HttpSource]
    wanted: Wanted = WANTED
    answered: list[Deferred[None]] = field(factory=list)
    url: str = ""

    def render(self, request: Any) -> None:
        self.answered.append(Deferred.fromCoroutine(self._answer(request)))

    async def _answer(self, request: Any) -> None:
        name = request.path.decode().lstrip("/")
        try:
            if name == "at":
                page = self.store.path(SHA256)
                headers = {"Content-Type": "text/x-page"}
                await send_file_at(request, page, len(DATA), headers, self.store.threads)
                return
            if name != "fetch":
                await send_stored(request, self.store, FileFacts(name, DATE))
                return
            transfer = self.fetcher.start(self.wanted, self.sources)
            facts = FileFacts(self.wanted.sha256)
            await send_transfer(request, transfer, self.store.threads, facts)
        except PymirrorError as e:
            request.setResponseCode(e.status)
            request.finish()

    async def idle(self) -> None:
        """Wait until nothing is being answered any more."""
        await gatherResults(self.answered)

    async def get(self, path: str, method: str = "GET", **headers: str) -> Download:
        fields = {name.replace("_", "-"): value for name, value in headers.items()}
        return await get(self.url + path, fields, method)


@asynccontextmanager
async def node(root: Path, *servers: ScriptedSource) -> AsyncIterator[Node]:
    async with AsyncExitStack() as stack:
        store = await stack.enter_async_context(open_store(root))
        sources = [await stack.enter_async_context(server.running()) for server in servers]
        fetcher = Fetcher(store, reactor, lambda *_: None)
        it = Node(store, fetcher, sources)
        it.url = await stack.enter_async_context(listening(it.render))
        yield it
        await fetcher.stop()
        await it.idle()
        assert list((root / "tmp").iterdir()) == []


@pytest_twisted.ensureDeferred
async def test_a_stored_file(tmp_path: Path) -> None:
    """The bytes, with the headers of F1, counted as a hit."""
    async with node(tmp_path) as it:
        await it.store.add_bytes(DATA)
        answer = await it.get(SHA256)
        assert answer.code == 200
        assert await answer.ended() == DATA
        assert answer.whole
        assert {
            name: answer.header(name)
            for name in ("ETag", "Last-Modified", "Accept-Ranges", "Cache-Control")
        } == {
            "ETag": f'"{SHA256}"',
            "Last-Modified": HTTP_DATE,
            "Accept-Ranges": "bytes",
            "Cache-Control": IMMUTABLE,
        }
        assert answer.header("Content-Type") == "application/octet-stream"
        assert answer.header("X-Content-Type-Options") == "nosniff"
        await it.idle()
        assert (it.store.counters.hits, it.store.counters.bytes_saved) == (1, len(DATA))


@pytest.mark.parametrize("size", [0, 1, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1])
@pytest_twisted.ensureDeferred
async def test_sizes_around_a_chunk(tmp_path: Path, size: int) -> None:
    """Every size arrives whole."""
    async with node(tmp_path) as it:
        digests = await it.store.add_bytes(DATA[:size])
        answer = await it.get(digests.sha256)
        assert await answer.ended() == DATA[:size]
        assert answer.whole


@pytest_twisted.ensureDeferred
async def test_head(tmp_path: Path) -> None:
    """HEAD has GET's headers, no body, and ignores Range."""
    async with node(tmp_path) as it:
        await it.store.add_bytes(DATA)
        answer = await it.get(SHA256, "HEAD", Range="bytes=0-9")
        assert answer.code == 200
        assert answer.header("Accept-Ranges") == "bytes"
        assert answer.header("ETag") == f'"{SHA256}"'
        assert await answer.ended() == b""
        assert answer.header("Content-Length") == str(len(DATA))


@pytest.mark.parametrize(
    ("wanted", "start", "stop"),
    [
        ("bytes=0-99", 0, 100),
        ("bytes=300000-900000", 300_000, 900_001),
        ("bytes=-7", len(DATA) - 7, len(DATA)),
        ("bytes=5-", 5, len(DATA)),
    ],
)
@pytest_twisted.ensureDeferred
async def test_ranges(tmp_path: Path, wanted: str, start: int, stop: int) -> None:
    """206 with exactly the bytes that Content-Range names."""
    async with node(tmp_path) as it:
        await it.store.add_bytes(DATA)
        answer = await it.get(SHA256, Range=wanted, If_Range=f'"{SHA256}"')
        assert answer.code == 206
        assert answer.header("Content-Range") == f"bytes {start}-{stop - 1}/{len(DATA)}"
        assert await answer.ended() == DATA[start:stop]
        assert answer.whole


@pytest_twisted.ensureDeferred
async def test_conditions(tmp_path: Path) -> None:
    """304 for what the client has, 416 outside the file, 200 where If-Range does not fit."""
    async with node(tmp_path) as it:
        await it.store.add_bytes(DATA)
        for header in ({"If_None_Match": f'"{SHA256}"'}, {"If_Modified_Since": HTTP_DATE}):
            answer = await it.get(SHA256, Range="bytes=0-9", **header)
            assert answer.code == 304
            assert answer.header("ETag") == f'"{SHA256}"'
            assert await answer.ended() == b""
        other = await it.get(SHA256, If_None_Match='"other"', If_Modified_Since=HTTP_DATE)
        assert other.code == 200
        await other.ended()
        outside = await it.get(SHA256, Range=f"bytes={len(DATA)}-")
        assert outside.code == 416
        assert outside.header("Content-Range") == f"bytes */{len(DATA)}"
        assert await outside.ended() == b""
        changed = await it.get(SHA256, Range="bytes=0-9", If_Range='"other"')
        assert changed.code == 200
        assert await changed.ended() == DATA


@pytest_twisted.ensureDeferred
async def test_any_file_with_headers_of_its_own(tmp_path: Path) -> None:
    """A file at a path is sent under the caller's headers, to HEAD without its bytes."""
    async with node(tmp_path) as it:
        await it.store.add_bytes(DATA)
        for method, expected in (("GET", DATA), ("HEAD", b"")):
            answer = await it.get("at", method)
            assert answer.header("Content-Type") == "text/x-page"
            assert answer.header("ETag") is None
            assert await answer.ended() == expected
            assert answer.whole


@pytest_twisted.ensureDeferred
async def test_an_unknown_file_is_for_the_caller(tmp_path: Path) -> None:
    """A file that is not here raises before anything is written."""
    async with node(tmp_path) as it:
        assert (await it.get(SHA256)).code == 404


@pytest_twisted.ensureDeferred
async def test_a_file_that_shrank_on_disk(tmp_path: Path) -> None:
    """A damaged file breaks the connection instead of ending early in good order."""
    async with node(tmp_path) as it:
        await it.store.add_bytes(DATA)
        path = it.store.path(SHA256)
        path.chmod(0o644)
        path.write_bytes(DATA[:1_000_000])
        answer = await it.get(SHA256)
        received = await answer.ended()
        assert answer.whole is False
        assert DATA.startswith(received)


@pytest_twisted.ensureDeferred
async def test_a_client_that_leaves(tmp_path: Path) -> None:
    """When a client leaves mid-body the file is closed and nothing goes on."""
    async with node(tmp_path) as it:
        data = DATA * 20
        digests = await it.store.add_bytes(data)
        answer = await it.get(digests.sha256)
        answer.transport.pauseProducing()  # type: ignore[union-attr]
        assert len(open_below(tmp_path)) == 1
        answer.leave()
        await it.idle()
        assert open_below(tmp_path) == []


@pytest_twisted.ensureDeferred
async def test_fifty_clients_one_fetch(tmp_path: Path) -> None:
    """All who ask while a file arrives get it from one fetch, as it arrives."""
    source = ScriptedSource()
    async with node(tmp_path, source) as it:
        asking = [Deferred.fromCoroutine(it.get("fetch")) for _ in range(50)]
        request = await source.request()
        request.setHeader("Content-Length", str(len(DATA)))
        request.write(DATA[:500_000])
        answers = [await each for each in asking]
        for answer in answers:
            assert answer.code == 200
            assert answer.header("ETag") == f'"{SHA256}"'
            assert await answer.at_least(500_000) == DATA[:500_000]
        request.write(DATA[500_000:])
        for answer in answers:
            assert await answer.ended() == DATA
            assert answer.whole
        assert len(source.requests) == 1


@pytest_twisted.ensureDeferred
async def test_ranges_of_a_file_that_is_arriving(tmp_path: Path) -> None:
    """A part that is there is answered before the rest arrives; one that is not waits."""
    source = ScriptedSource()
    async with node(tmp_path, source) as it:
        tail = Deferred.fromCoroutine(it.get("fetch", Range="bytes=-10"))
        request = await source.request()
        request.setHeader("Content-Length", str(len(DATA)))
        request.write(DATA[:500_000])
        early = await it.get("fetch", Range="bytes=100000-399999")
        assert early.code == 206
        assert await early.ended() == DATA[100_000:400_000]
        assert early.whole
        head = await it.get("fetch", "HEAD")
        assert await head.ended() == b""
        assert head.header("Content-Length") == str(len(DATA))
        outside = await it.get("fetch", Range=f"bytes={len(DATA)}-")
        assert outside.code == 416
        assert not tail.called
        request.write(DATA[500_000:])
        late = await tail
        assert late.header("Content-Range") == f"bytes {len(DATA) - 10}-{len(DATA) - 1}/{len(DATA)}"
        assert await late.ended() == DATA[-10:]


@pytest_twisted.ensureDeferred
async def test_wrong_bytes_break_every_client(tmp_path: Path) -> None:
    """Wrong bytes: connections broken, nothing kept; the next request gets the next source's."""
    bad, good = ScriptedSource(), ScriptedSource(body(DATA))
    async with node(tmp_path, bad, good) as it:
        asking = [Deferred.fromCoroutine(it.get("fetch")) for _ in range(5)]
        request = await bad.request()
        request.setHeader("Content-Length", str(len(DATA)))
        request.write(DATA[:500_000])
        answers = [await each for each in asking]
        request.write(DATA[500_000:-1] + b"!")
        for answer in answers:
            received = await answer.ended()
            assert answer.whole is False
            assert DATA.startswith(received)
        again = await it.get("fetch")
        assert await again.ended() == DATA
        assert again.whole
        assert files_below(tmp_path) == [it.store.path(SHA256)]


@pytest_twisted.ensureDeferred
async def test_a_wrong_file_is_not_kept(tmp_path: Path) -> None:
    """With no good source left, clients get a broken body and store and tmp stay empty."""
    async with node(tmp_path, ScriptedSource(body(DATA[:-1] + b"!"))) as it:
        asking = Deferred.fromCoroutine(it.get("fetch"))
        transfer = it.fetcher.start(WANTED, it.sources)
        answer = await asking
        assert answer.code == 200
        await answer.ended()
        assert answer.whole is False
        with pytest.raises(UpstreamError, match="sha256"):
            await transfer.done()
        assert files_below(tmp_path) == []


@pytest_twisted.ensureDeferred
async def test_sources_change_unseen_before_the_first_byte(tmp_path: Path) -> None:
    """A source that fails before it sent a byte costs the client nothing."""
    bad, good = ScriptedSource(), ScriptedSource(body(DATA))
    async with node(tmp_path, bad, good) as it:
        asking = Deferred.fromCoroutine(it.get("fetch"))
        request = await bad.request()
        request.setHeader("Content-Length", str(len(DATA)))
        request.write(b"")
        await it.fetcher.start(WANTED, []).arrival()
        request.channel.loseConnection()
        answer = await asking
        assert await answer.ended() == DATA
        assert answer.whole


@pytest_twisted.ensureDeferred
async def test_no_source(tmp_path: Path) -> None:
    """When no source can deliver, the error is the caller's to answer with."""
    async with node(tmp_path) as it:
        assert (await it.get("fetch")).code == 502


@pytest.mark.parametrize("data", [DATA, b""])
@pytest_twisted.ensureDeferred
async def test_a_file_of_unknown_size_and_digest(tmp_path: Path, data: bytes) -> None:
    """It is sent chunked, without ETag, whole for any Range; broken off if it breaks off."""
    source = ScriptedSource()
    async with node(tmp_path, source) as it:
        it.wanted = UNKNOWN
        asking = Deferred.fromCoroutine(it.get("fetch", Range="bytes=0-3"))
        request = await source.request()
        request.write(data)
        request.finish()
        answer = await asking
        assert answer.code == 200
        assert answer.header("ETag") is None
        assert await answer.ended() == data
        assert answer.whole


@pytest_twisted.ensureDeferred
async def test_a_cut_file_of_unknown_size(tmp_path: Path) -> None:
    """A chunked answer without its end is a broken one."""
    source = ScriptedSource()
    async with node(tmp_path, source) as it:
        it.wanted = UNKNOWN
        asking = Deferred.fromCoroutine(it.get("fetch"))
        request = await source.request()
        request.write(DATA)
        answer = await asking
        await answer.at_least(len(DATA))
        request.channel.loseConnection()
        await answer.ended()
        assert answer.whole is False


@pytest_twisted.ensureDeferred
async def test_an_empty_file_that_is_arriving(tmp_path: Path) -> None:
    """Zero bytes are verified before they are answered."""
    async with node(tmp_path, ScriptedSource(body(b"")), ScriptedSource(body(b""))) as it:
        it.wanted = Wanted("empty", sha256=EMPTY, size=0)
        answer = await it.get("fetch")
        assert await answer.ended() == b""
        assert answer.code == 200
        it.wanted = Wanted("empty", sha256=SHA256, size=0)
        assert (await it.get("fetch")).code == 502


@pytest_twisted.ensureDeferred
async def test_leaving_clients_do_not_end_the_fetch(tmp_path: Path) -> None:
    """The file is fetched to its end although everyone who wanted it has left."""
    source = ScriptedSource()
    async with node(tmp_path, source) as it:
        early = Deferred.fromCoroutine(it.get("fetch"))
        request = await source.request()
        request.setHeader("Content-Length", str(len(DATA)))
        request.write(DATA[:1000])
        answer = await early
        await answer.at_least(1000)
        answer.leave()
        await it.idle()
        request.write(DATA[1000:])
        digests = await it.fetcher.start(WANTED, []).done()
        assert digests.sha256 == SHA256
