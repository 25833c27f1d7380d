"""Fetching: one fetch per file however many want it, sources in order, verified on arrival.

Order of effects: headers of a source → readers attached to the arrival → bytes to a temporary
file, hashed as they come → size and digests equal: durable in the store, then readers get the
last byte; else readers are broken off, nothing is kept, the next source is asked. A source that is
cut half way is no reason to break readers off: the next one, or the same again, gives the rest.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Container, Iterable
from functools import partial
from pathlib import Path
from typing import NoReturn, cast

from attrs import define, field
from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from cluster.clock import Clock
from cluster.errors import DigestMismatch, NotFound, PymirrorError, Unavailable, UpstreamError
from cluster.files.arrival import Arrival
from cluster.files.delivery import Delivery
from cluster.files.sink import Digests, HashingSink
from cluster.files.sources import CutOff, Source, SourceBody, SourceError, Wanted
from cluster.files.store import FileStore
from cluster.files.transfer import Part, Round, Transfer

_log = Logger()

__all__ = ["Fetcher", "Transfer"]

PASSING_SECONDS = 60.0

OnFailure = Callable[[str, Wanted, str], None]
"""Told of each failed attempt: the source's name, the file, the reason."""


@define(eq=False)
class Fetcher:
    """Fetches files into `store`; `idle_seconds` without an answer or a byte fail a source.

    After each of the `pauses` (seconds) a file of which a part is here is tried again.
    """

    _store: FileStore
    _clock: Clock
    _on_failure: OnFailure
    _idle_seconds: float = 30.0
    _pauses: tuple[float, ...] = (0.5, 2.0)
    _running: dict[str, Transfer] = field(factory=dict)
    _tasks: set[Deferred[None]] = field(factory=set)
    _dropping: set[Deferred[None]] = field(factory=set)
    _passing: set[Path] = field(factory=set)
    _stopped: bool = False

    def start(self, wanted: Wanted, sources: Iterable[Source], *, counted: bool = True) -> Transfer:
        """Fetch a file that is not in the store, or join the fetch that runs for its key.

        `sources` are asked in order; they do not count when a running fetch is joined.
        `counted` is whether it is because of a client.
        """
        if counted:
            self._store.missed()
        running = self._running.get(wanted.key)
        if running is not None:
            return running
        transfer = Transfer(wanted)
        self._running[wanted.key] = transfer
        task = Deferred.fromCoroutine(self._run(transfer, tuple(sources)))
        self._tasks.add(task)
        task.addBoth(lambda _: self._tasks.discard(task))
        return transfer

    def running(self, sha256: str) -> Transfer | None:
        """The fetch of a file that is under way."""
        return self._running.get(sha256)

    def count(self, besides: Container[str] = ()) -> int:
        """How many fetches are under way, but for these keys."""
        return sum(key not in besides for key in self._running)

    async def stop(self) -> None:
        """Break all fetches off and wait until their temporary files are gone."""
        self._stopped = True
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await DeferredList(tasks)
        await DeferredList(list(self._dropping))
        for path in list(self._passing):
            self._passing.discard(path)
            await self._store.threads.run(partial(path.unlink, missing_ok=True))

    async def _drop(self, sink: HashingSink, error: Exception) -> None:
        # On its own, so that `stop` can wait for it even if it cancels who waits here.
        dropping = Deferred.fromCoroutine(sink.abort(error))
        waiter: Deferred[None] = Deferred()
        self._dropping.add(dropping)

        def dropped(_: object) -> None:
            self._dropping.discard(dropping)
            if not waiter.called:
                waiter.callback(None)

        dropping.addBoth(dropped)
        await waiter

    async def _run(self, transfer: Transfer, sources: tuple[Source, ...]) -> None:
        outcome: Digests | PymirrorError
        try:
            outcome = await self._first_good(transfer, sources)
        except PymirrorError as e:
            outcome = e
        except Exception:
            _log.failure("fetching {file} failed", file=transfer.wanted.filename)
            outcome = UpstreamError(f"{transfer.wanted.filename} could not be fetched")
        # Before anyone is woken: who asks again must start anew or find the file stored.
        del self._running[transfer.wanted.key]
        transfer.settle(outcome)

    async def _first_good(self, transfer: Transfer, sources: tuple[Source, ...]) -> Digests:
        round_ = Round(transfer.wanted, list(sources))
        try:
            for pause_seconds in (0.0, *self._pauses):
                if pause_seconds:
                    if transfer.part is None or not round_.again:
                        break
                    # Whoever reads waits: a node that restarts is back in a moment.
                    round_.begin()
                    await _sleep(self._clock, pause_seconds)
                digests = await self._ask_all(transfer, round_)
                if digests is not None:
                    return digests
            raise _none_left(transfer.wanted, round_.failures)
        except PymirrorError as e:
            await self._discard(transfer, e)
            raise
        except Exception as e:
            await self._discard(transfer, _source_error(e))
            if self._stopped:
                raise Unavailable("this node is shutting down") from e
            raise

    async def _ask_all(self, transfer: Transfer, round_: Round) -> Digests | None:
        while round_.waiting:
            source = round_.waiting.pop(0)
            had, transfer.is_mixed = transfer.bytes_here, False
            try:
                digests = await self._attempt(transfer, source)
            except UpstreamError as e:
                if self._stopped:
                    raise Unavailable("this node is shutting down") from e
                self._on_failure(source.name, transfer.wanted, str(e))
                round_.failed(source, e, transfer.bytes_here > had, transfer.is_mixed)
            else:
                if digests is not None:
                    return digests
        return None

    async def _attempt(self, transfer: Transfer, source: Source) -> Digests | None:
        wanted, part = transfer.wanted, transfer.part
        body = await self._open(source, wanted if part is None else part.rest_of(wanted, source))
        if body is None:
            return None
        length = _agreed_length(wanted, transfer, body)
        if part is not None and body.start == 0 and wanted.sha256 is None:
            # It may be another file by now, and no digest would tell.
            await self._discard(transfer, SourceError("the source began anew"))
            part = None
        part = part or self._begin(transfer, length)
        part.goes_on(source, body, length)
        transfer.is_mixed, transfer.is_unverified = part.is_mixed, not part.kept
        if transfer.part is None:
            # Last: whoever waits wakes now, and looks at the above.
            transfer.arrives(part)
        try:
            await self._deliver(body, part)
            return await self._keep(transfer, part)
        except Exception as e:
            error = _source_error(e)
            # A disk that refused, or bytes that are wrong: nothing of it is good any more.
            if not isinstance(error, CutOff) or not part.can_go_on(wanted):
                await self._discard(transfer, error)
            raise error from e

    def _begin(self, transfer: Transfer, length: int | None) -> Part:
        sink = self._store.new_sink(transfer.wanted.checkable)
        return Part(sink, Arrival(length, sink))

    async def _deliver(self, body: SourceBody, part: Part) -> None:
        here, length = part.sink.bytes_written, part.arrival.length
        delivery = Delivery(
            body, part.sink, self._clock, self._idle_seconds, length, body.start, here - body.start
        )
        try:
            await delivery.run()
        except CutOff:
            await part.sink.flushed()
            if part.sink.bytes_written != length:
                raise
        await part.sink.flushed()
        written = part.sink.bytes_written
        if part.sink.error is None and length is not None and written < length:
            raise CutOff(f"sent {written} of {length} bytes")

    async def _keep(self, transfer: Transfer, part: Part) -> Digests:
        digests = await part.sink.finish()
        _verify(transfer.wanted, part.arrival.length, digests)
        if part.kept:
            part.arrival.will_be_at(self._store.path(digests.sha256))
            await self._store.add(part.sink, fetched=True)
        else:
            await self._let_pass(part.sink)
        transfer.part = None
        part.arrival.verified(digests)
        return digests

    async def _let_pass(self, sink: HashingSink) -> None:
        """Bytes for those who read now: their file goes when all have surely opened it."""
        await self._store.threads.run(os.close, sink.release())
        self._passing.add(sink.path)
        self._clock.callLater(PASSING_SECONDS, self._has_passed, sink.path)

    def _has_passed(self, path: Path) -> None:
        if path in self._passing:
            self._passing.discard(path)
            unlink = partial(path.unlink, missing_ok=True)
            Deferred.fromCoroutine(self._store.threads.run(unlink)).addErrback(
                lambda failure: _log.failure("cannot remove {path}", failure, path=path)
            )

    async def _discard(self, transfer: Transfer, error: PymirrorError) -> None:
        part = transfer.part
        if part is not None:
            transfer.arrives(None)
            part.arrival.failed(error)
            await self._drop(part.sink, error)

    async def _open(self, source: Source, wanted: Wanted) -> SourceBody | None:
        def too_late(_: object, seconds: float) -> NoReturn:
            raise SourceError(f"no answer within {seconds:g} s")

        opening = Deferred.fromCoroutine(source.open(wanted))
        opening.addTimeout(self._idle_seconds, cast(IReactorTime, self._clock), too_late)
        try:
            return await opening
        except Exception as e:
            raise _source_error(e) from e


def _agreed_length(wanted: Wanted, transfer: Transfer, body: SourceBody) -> int | None:
    part = transfer.part
    known = wanted.size if part is None or wanted.size is not None else part.arrival.length
    if known is not None and body.length not in (None, known):
        body.abort()
        raise SourceError(f"has {body.length} bytes instead of {known}")
    return body.length if known is None else known


async def _sleep(clock: Clock, seconds: float) -> None:
    waiter: Deferred[None] = Deferred()
    timer = clock.callLater(seconds, waiter.callback, None)
    try:
        await waiter
    finally:
        if timer.active():
            timer.cancel()


def _verify(wanted: Wanted, length: int | None, digests: Digests) -> None:
    if length is not None and digests.size != length:
        raise SourceError(f"sent {digests.size} bytes instead of {length}")
    for name, expected in wanted.checkable.items():
        if digests.hashes[name] != expected:
            raise DigestMismatch(f"{name} is {digests.hashes[name]}, not {expected}")


def _source_error(error: Exception) -> PymirrorError:
    if isinstance(error, PymirrorError):
        return error
    return SourceError(f"{type(error).__name__}: {error}")


def _none_left(wanted: Wanted, failures: list[UpstreamError]) -> PymirrorError:
    if failures and all(isinstance(e, SourceError) and e.absent for e in failures):
        return NotFound(f"no source has {wanted.filename} any more")
    reasons = "; ".join(str(e) for e in failures) or "no source is known"
    return UpstreamError(f"{wanted.filename} could not be fetched: {reasons}")
