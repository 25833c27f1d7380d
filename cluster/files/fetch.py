"""Fetching: one fetch per file however many want it, sources in order, verified on arrival.

Order of effects: headers of a source → readers attached to the arrival → bytes to a temporary
file, hashed as they come → size and digests equal: durable in the store, then readers get the
last byte; else readers are broken off, nothing is kept, the next source is asked.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
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
from cluster.files.sources import Source, SourceBody, SourceError, Wanted
from cluster.files.store import FileStore
from cluster.files.waiting import Broadcast

_log = Logger()

OnFailure = Callable[[str, Wanted, str], None]
"""Told of each failed attempt: the source's name, the file, the reason."""


@define(eq=False)
class Transfer:
    """One fetch, shared by all who want the file. Nobody's leaving ends it."""

    wanted: Wanted
    _arrival: Arrival | None = None
    _outcome: Digests | PymirrorError | None = None
    _changed: Broadcast = field(factory=Broadcast)

    async def arrival(self) -> Arrival:
        """The file as it arrives, as soon as a source has answered.

        After that source has failed, this waits for the next one. Raises what `done` raises when
        none is left.
        """
        while self._arrival is None and not isinstance(self._outcome, PymirrorError):
            await self._changed.wait()
        if isinstance(self._outcome, PymirrorError):
            raise self._outcome
        assert self._arrival is not None  # noqa: S101 - for the type checker
        return self._arrival

    async def headers(self) -> int | None:
        """The file's size in bytes, or None if nobody knows it yet; waits like `arrival`."""
        return (await self.arrival()).length

    async def done(self) -> Digests:
        """Wait until the file is in the store; returns its size and digests.

        Raises NotFound if every source says so, Unavailable if our disk refuses, UpstreamError
        if no source delivered the file.
        """
        while self._outcome is None:
            await self._changed.wait()
        if isinstance(self._outcome, PymirrorError):
            raise self._outcome
        return self._outcome

    def _arrives(self, arrival: Arrival | None) -> None:
        self._arrival = arrival
        self._changed.wake()

    def _settle(self, outcome: Digests | PymirrorError) -> None:
        self._outcome = outcome
        self._changed.wake()


@define(eq=False)
class Fetcher:
    """Fetches files into `store`; `idle_seconds` without an answer or a byte fail a source."""

    _store: FileStore
    _clock: Clock
    _on_failure: OnFailure
    _idle_seconds: float = 30.0
    _running: dict[str, Transfer] = field(factory=dict)
    _tasks: set[Deferred[None]] = field(factory=set)
    _dropping: set[Deferred[None]] = field(factory=set)
    _stopped: bool = False

    def start(self, wanted: Wanted, sources: Iterable[Source]) -> Transfer:
        """Fetch a file that is not in the store, or join the fetch that runs for its key.

        `sources` are asked in order; they do not count when a running fetch is joined.
        """
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

    async def stop(self) -> None:
        """Break all fetches off and wait until their temporary files are gone."""
        self._stopped = True
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await DeferredList(tasks)
        await DeferredList(list(self._dropping))

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
        transfer._settle(outcome)

    async def _first_good(self, transfer: Transfer, sources: tuple[Source, ...]) -> Digests:
        wanted = transfer.wanted
        failures: list[UpstreamError] = []
        for source in sources:
            try:
                digests = await self._attempt(transfer, source)
            except UpstreamError as e:
                if self._stopped:
                    raise Unavailable("this node is shutting down") from e
                failures.append(e)
                self._on_failure(source.name, wanted, str(e))
            else:
                if digests is not None:
                    return digests
        raise _none_left(wanted, failures)

    async def _attempt(self, transfer: Transfer, source: Source) -> Digests | None:
        wanted = transfer.wanted
        body = await self._open(source, wanted)
        if body is None:
            return None
        length = _agreed_length(wanted, body)
        sink = self._store.new_sink(wanted.checkable)
        arrival = Arrival(length, sink)
        transfer._arrives(arrival)
        try:
            await Delivery(body, sink, self._clock, self._idle_seconds, length).run()
            digests = await sink.finish()
            _verify(wanted, length, digests)
            arrival.will_be_at(self._store.path(digests.sha256))
            await self._store.add(sink)
        except Exception as e:
            error = _source_error(e)
            transfer._arrives(None)
            arrival.failed(error)
            await self._drop(sink, error)
            raise error from e
        arrival.verified(digests)
        return digests

    async def _open(self, source: Source, wanted: Wanted) -> SourceBody | None:
        def too_late(_: object, seconds: float) -> NoReturn:
            raise SourceError(f"no answer within {seconds:g} s")

        opening = Deferred.fromCoroutine(source.open(wanted))
        opening.addTimeout(self._idle_seconds, cast(IReactorTime, self._clock), too_late)
        try:
            return await opening
        except Exception as e:
            raise _source_error(e) from e


def _agreed_length(wanted: Wanted, body: SourceBody) -> int | None:
    if wanted.size is not None and body.length not in (None, wanted.size):
        body.abort()
        raise SourceError(f"has {body.length} bytes instead of {wanted.size}")
    return body.length if wanted.size is None else wanted.size


def _verify(wanted: Wanted, length: int | None, digests: Digests) -> None:
    if length is not None and digests.size != length:
        raise SourceError(f"sent {digests.size} of {length} bytes")
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
