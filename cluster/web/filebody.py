"""One file's bytes as an HTTP answer, whether it is stored or still arriving.

Nothing ends politely that is not right: when a file turns out wrong or short after its headers
went out, the connection is aborted, so that the client sees a broken body (standards F4).
"""

from __future__ import annotations

import os
from collections.abc import Coroutine, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol, TypeVar

from attrs import define, field, frozen
from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger
from twisted.web.http_headers import Headers

from cluster.errors import NotFound, PymirrorError, UpstreamError
from cluster.files.fetch import Transfer
from cluster.files.store import FileStore
from cluster.files.waiting import Broadcast
from cluster.threads import Runner
from cluster.web.fileplan import FileFacts, Plan, plan

__all__ = [
    "FileFacts", "FileRequest", "Pieces", "send_file_at", "send_pieces", "send_stored",
    "send_transfer",
]  # fmt: skip

CHUNK_BYTES = 512 << 10
LEAST_CHUNK_BYTES = 64 << 10
SENDING_BYTES = 16 << 20
"""In memory, twice at most, for all bodies together, as long as chunks are not the least."""
T = TypeVar("T")
_log = Logger()


class FileRequest(Protocol):
    """The part of `twisted.web.server.Request` that is used here."""

    method: bytes
    uri: bytes
    requestHeaders: Headers
    transport: Any

    def setResponseCode(self, code: int, /) -> None:
        """Set the status."""

    def setHeader(self, name: str, value: str, /) -> None:
        """Set a header."""

    def write(self, data: bytes, /) -> None:
        """Send a part of the body."""

    def finish(self) -> None:
        """End the answer."""

    def registerProducer(self, producer: object, streaming: bool, /) -> None:
        """Name who is paused when the connection's buffer is full."""

    def unregisterProducer(self) -> None:
        """Forget the producer."""

    def notifyFinish(self) -> Deferred[None]:
        """Fires at the answer's end; fails when the client leaves."""


class Content(Protocol):
    """Bytes on disk, all there (a stored file) or not yet (an `Arrival`)."""

    def open_file(self) -> int:
        """A descriptor for the caller to close; called in a thread."""

    async def wait_beyond(self, offset: int) -> int:
        """Wait for more than `offset` bytes or the end; returns how many can be read."""


class Pieces(Protocol):
    """A body that is made as it is sent; all methods are called in threads, one at a time."""

    def open(self) -> None:
        """Begin; `close` follows whatever this raises."""

    def read(self) -> bytes:
        """The next bytes, empty at the end; what it raises breaks the answer off."""

    def close(self) -> None:
        """Done, or nobody wants the rest."""


async def send_stored(request: FileRequest, store: FileStore, facts: FileFacts) -> None:
    """Answer with the stored file `facts.sha256`, and finish the request.

    Raises NotFound, before anything is written, if the store does not have it.
    """
    sha256 = facts.sha256 or ""
    size = await store.size_of(sha256)
    if size is None:
        raise NotFound(f"no file {sha256} here")
    answer = plan(request.method, request.requestHeaders, facts, size)
    client = _Client(request)
    with suppress(_ClientGone):
        await _send(client, answer, _Stored(store.path(sha256), size), store.threads)
        store.served((answer.stop or 0) - answer.start if answer.has_body else 0)


async def send_file_at(
    request: FileRequest, path: Path, size: int, headers: Mapping[str, str], threads: Runner
) -> None:
    """Answer 200 with the whole file at `path`, streamed from disk, and finish the request."""
    complete = {**headers, "Content-Length": str(size)}
    answer = Plan(200, complete, request.method != b"HEAD", 0, size)
    client = _Client(request)
    with suppress(_ClientGone):
        await _send(client, answer, _Stored(path, size), threads)


async def send_transfer(
    request: FileRequest, transfer: Transfer, threads: Runner, facts: FileFacts
) -> None:
    """Answer with a file while it arrives, and finish the request.

    Until the first wanted byte is there, a failing source is replaced by the next one unseen.
    Raises what `Transfer.done` raises if none is left; nothing has been written then.
    """
    client = _Client(request)
    with suppress(_ClientGone):
        while True:
            arrival = await client.unless_gone(transfer.arrival())
            answer = plan(request.method, request.requestHeaders, facts, arrival.length)
            try:
                return await _send(client, answer, arrival, threads)
            except UpstreamError:
                continue


async def send_pieces(request: FileRequest, answer: Plan, pieces: Pieces, threads: Runner) -> None:
    """Answer with a body piece by piece, as fast as the client takes it, and finish the request.

    Raises what `Pieces.open` and the first `read` raise; nothing has been written then.
    """
    client = _Client(request)
    with suppress(_ClientGone):
        if not answer.has_body:
            client.begin(answer)
            client.finish()
            return
        # On its own, as in `_send`.
        ended: Deferred[None] = Deferred()
        Deferred.fromCoroutine(_send_pieces(client, answer, pieces, threads)).chainDeferred(ended)
        await ended


async def _send_pieces(client: _Client, answer: Plan, pieces: Pieces, threads: Runner) -> None:
    begun = False
    try:
        await threads.run(pieces.open)
        data = await threads.run(pieces.read)
        client.begin(answer)
        begun = True
        while data:
            await client.write(data)
            data = await threads.run(pieces.read)
        client.finish()
    except _ClientGone:
        raise
    except Exception as e:
        if not begun:
            raise
        if not isinstance(e, PymirrorError):
            _log.failure("sending a body failed")
        client.abort(e)
    finally:
        await threads.run(pieces.close)


async def _send(client: _Client, answer: Plan, content: Content, threads: Runner) -> None:
    """Send headers and body; raises only while nothing has been written."""
    if not answer.has_body:
        client.begin(answer)
        client.finish()
        return
    await client.unless_gone(content.wait_beyond(answer.start))
    # Klein cancels the answer to a client that left; but a thread goes on, with the descriptor
    # that it opens or reads. So the sending ends by itself: `_Client` tells it to.
    ended: Deferred[None] = Deferred()
    Deferred.fromCoroutine(_send_body(client, answer, content, threads)).chainDeferred(ended)
    await ended


async def _send_body(client: _Client, answer: Plan, content: Content, threads: Runner) -> None:
    fd = await threads.run(content.open_file)
    _share.bodies += 1
    try:
        client.begin(answer)
        await _copy(client, answer, content, fd, threads)
        client.finish()
    except _ClientGone:
        raise
    except PymirrorError as e:
        client.abort(e)
    except Exception as e:
        _log.failure("sending a file failed")
        client.abort(e)
    finally:
        _share.bodies -= 1
        # In a thread: the last close of a dropped file frees its blocks.
        await threads.run(os.close, fd)


async def _copy(client: _Client, answer: Plan, content: Content, fd: int, threads: Runner) -> None:
    offset = answer.start
    while answer.stop is None or offset < answer.stop:
        ready = await client.unless_gone(content.wait_beyond(offset))
        if ready <= offset:
            break
        stop = ready if answer.stop is None else min(ready, answer.stop)
        data = await threads.run(os.pread, fd, min(_share.chunk_bytes, stop - offset), offset)
        if not data:
            raise UpstreamError("the file is shorter on disk than it was")
        await client.write(data)
        offset += len(data)


@define
class _Share:
    """What each of the bodies that are being sent may take at once: many clients, small pieces."""

    bodies: int = 0

    @property
    def chunk_bytes(self) -> int:
        return max(LEAST_CHUNK_BYTES, min(CHUNK_BYTES, SENDING_BYTES // max(1, self.bodies)))


_share = _Share()


@frozen
class _Stored:
    path: Path
    size: int

    def open_file(self) -> int:
        return os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)

    async def wait_beyond(self, offset: int) -> int:
        return self.size


class _ClientGone(Exception):
    """The client closed its connection: nobody is left to answer."""


@define(eq=False)
class _Client:
    """The connection that an answer goes to; all waiting ends when the client leaves."""

    _request: FileRequest
    _gone: bool = False
    _paused: bool = False
    _resumed: Broadcast = field(factory=Broadcast)
    _waiting: Deferred[Any] | None = None

    def __attrs_post_init__(self) -> None:
        self._request.notifyFinish().addErrback(lambda _: self.stopProducing())

    def begin(self, answer: Plan) -> None:
        """Set status and headers."""
        self._check()
        self._request.setResponseCode(answer.status)
        for name, value in answer.headers.items():
            self._request.setHeader(name, value)
        if answer.has_body:
            self._request.registerProducer(self, True)

    async def write(self, data: bytes) -> None:
        """Send bytes as soon as the connection takes them."""
        while self._paused and not self._gone:
            await self._resumed.wait()
        self._check()
        self._request.write(data)

    def finish(self) -> None:
        """End the answer."""
        self._check()
        self._request.unregisterProducer()
        self._request.finish()

    def abort(self, reason: Exception) -> None:
        """Break the connection: a client that has seen a length must not believe it got all."""
        _log.info("breaking off {uri}: {reason}", uri=self._request.uri, reason=reason)
        if not self._gone:
            self._request.unregisterProducer()
            self._request.transport.abortConnection()

    async def unless_gone(self, work: Coroutine[Any, Any, T]) -> T:
        """Wait for `work`; raises _ClientGone and cancels it when the client leaves first."""
        if self._gone:
            work.close()
        self._check()
        waiting: Deferred[T] = Deferred.fromCoroutine(work)
        self._waiting = waiting
        try:
            return await waiting
        except CancelledError:
            self._check()
            raise
        finally:
            self._waiting = None

    def pauseProducing(self) -> None:
        """The connection's buffer is full."""
        self._paused = True

    def resumeProducing(self) -> None:
        """The connection's buffer is empty."""
        self._paused = False
        self._resumed.wake()

    def stopProducing(self) -> None:
        """The client is gone."""
        self._gone = True
        self._resumed.wake()
        if self._waiting is not None:
            self._waiting.cancel()

    def _check(self) -> None:
        if self._gone:
            raise _ClientGone
