"""Mirror on demand: when to ask, when to wait, and when to serve what we have.

The same rules hold on both kinds of node; only who is asked differs (the primary asks the
upstream, a replica asks the primary). Fresh: serve. Older than `mirror_cache_expiry` but within
`max_stale`, or in trouble when last asked: serve, and ask meanwhile. Older, or never seen: ask
first, for a bounded time, and serve what we have when no answer comes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from attrs import define, evolve, field, frozen
from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger

from cluster.clock import Clock, bounded
from cluster.model import MirrorIndex
from cluster.names import IndexName
from cluster.singleflight import SingleFlight
from cluster.state import freshness
from cluster.state.database import Database
from cluster.state.freshness import Freshness, Outcome
from cluster.state.position import Head
from cluster.state.rows import Touched
from cluster.upstream.parse import ParsedProject
from cluster.upstream.urls import project_url

ABSENT_SECONDS = 60.0
ERROR_SECONDS = 10.0
# pip gives up after 15 s: a page that we have must be there well before.
KNOWN_WAIT_SECONDS = 5.0
WAIT_SECONDS = 35.0
# Hundreds of thousands of names; half a list would say that the other half does not exist.
LIST_WAIT_SECONDS = 240.0
_FORGET_ABSENT_EVERY = 1_000
_FORGET_ABSENT_SECONDS = 86_400.0


@frozen
class MirrorAnswer:
    """What is known of a project's freshness; `unlogged` is a page that no log entry covers."""

    freshness: Freshness
    unlogged: ParsedProject | None = None


class Refresher(Protocol):
    """Asks whoever knows about a project (empty name: about the project list)."""

    async def refresh(
        self, index: MirrorIndex, project: str, known: Freshness | None
    ) -> MirrorAnswer:
        """Ask once. Never raises for trouble with the upstream: that is an Outcome."""


@define
class OnDemand:
    """Decides for each request whether to ask; one question at a time for each project."""

    _log = Logger()

    _refresher: Refresher
    _local: Database
    _clock: Clock
    _now: Callable[[], float]
    _running: SingleFlight[tuple[str, str], MirrorAnswer] = field(factory=SingleFlight)
    _absent_seen: int = 0

    def changed(self, head: Head, touched: Touched) -> None:
        """Forget the answers of indexes that are no more (a `Position` listener)."""
        for name in touched.removed:
            forgetting = Deferred.fromCoroutine(self._forget_index(IndexName(name)))
            forgetting.addErrback(lambda failure: self._log.failure("cannot forget", failure))

    async def _forget_index(self, index: IndexName) -> None:
        await self._local.write(lambda c: freshness.forget_index(c, index))

    async def ensure(self, index: MirrorIndex, project: str) -> MirrorAnswer:
        """See to it that what the state says of a project is fresh enough to be served."""
        if index.mirror_url is None:
            return MirrorAnswer(Freshness(Outcome.ABSENT, self._now()))
        known = await self._local.read(lambda c: freshness.get(c, index.name, project))
        if known is not None and _is_of(known, index.mirror_url):
            if known.age(self._now()) < expiry(index, known):
                return MirrorAnswer(known)
            if self._may_be_served(index, known):
                Deferred.fromCoroutine(self._ask(index, project, known))
                return MirrorAnswer(known)
        return await self._wait(index, project, known, _patience(project, known))

    async def renew(self, index: MirrorIndex, project: str) -> MirrorAnswer:
        """Ask now, however fresh what the state says is; waits as long as for something new."""
        if index.mirror_url is None:
            return MirrorAnswer(Freshness(Outcome.ABSENT, self._now()))
        known = await self._local.read(lambda c: freshness.get(c, index.name, project))
        return await self._wait(index, project, known, _patience(project, None))

    async def forget(self, index: MirrorIndex, project: str) -> None:
        """Know nothing of a project's freshness any more: what was mirrored of it was dropped."""
        await self._local.write(lambda c: freshness.forget(c, index.name, project))

    async def _wait(
        self, index: MirrorIndex, project: str, known: Freshness | None, patience: float
    ) -> MirrorAnswer:
        waiting = Deferred.fromCoroutine(self._ask(index, project, known))
        try:
            return await bounded(waiting, patience, self._clock)
        except CancelledError:
            late = f"no answer within {patience:.0f} s"
            return MirrorAnswer(failure(known, self._now(), late))

    def _may_be_served(self, index: MirrorIndex, known: Freshness) -> bool:
        if known.succeeded_at is None:
            return False
        # Who failed to answer a moment ago will hardly answer this client in time.
        in_trouble = known.outcome is Outcome.ERROR
        return in_trouble or 0 <= self._now() - known.succeeded_at <= index.max_stale

    async def _ask(self, index: MirrorIndex, project: str, known: Freshness | None) -> MirrorAnswer:
        key = (index.name, project)
        return await self._running.run(key, lambda: self._refresh(index, project, known))

    async def _refresh(
        self, index: MirrorIndex, project: str, known: Freshness | None
    ) -> MirrorAnswer:
        try:
            answer = await self._refresher.refresh(index, project, known)
            if answer.unlogged is None:
                await self._remember(index, project, answer.freshness)
        except Exception as error:
            self._log.failure("refreshing {index} {project}", index=index.name, project=project)
            return MirrorAnswer(failure(known, self._now(), f"internal error: {error!r}"))
        return answer

    async def _remember(self, index: MirrorIndex, project: str, value: Freshness) -> None:
        await self._local.write(lambda c: freshness.put(c, index.name, project, value))
        if value.outcome is Outcome.ABSENT:
            self._absent_seen += 1
            if self._absent_seen % _FORGET_ABSENT_EVERY == 0:
                moment = self._now() - _FORGET_ABSENT_SECONDS
                await self._local.write(lambda c: freshness.forget_absent_before(c, moment))


def _is_of(known: Freshness, mirror_url: str) -> bool:
    """Whether an answer is of the upstream that is set now, as far as is known."""
    return known.url is None or known.url.startswith(project_url(mirror_url, ""))


def _patience(project: str, known: Freshness | None) -> float:
    if known is not None and known.succeeded_at is not None:
        return KNOWN_WAIT_SECONDS
    return WAIT_SECONDS if project else LIST_WAIT_SECONDS


def expiry(index: MirrorIndex, known: Freshness) -> float:
    """For how many seconds an answer counts as fresh."""
    bound = {Outcome.ABSENT: ABSENT_SECONDS, Outcome.ERROR: ERROR_SECONDS}.get(known.outcome)
    return float(index.mirror_cache_expiry if bound is None else
                 min(bound, index.mirror_cache_expiry))  # fmt: skip


def failure(known: Freshness | None, now: float, error: str) -> Freshness:
    """An unusable answer: what is known of the last success stays."""
    if known is None:
        return Freshness(Outcome.ERROR, now, error=error)
    return evolve(known, outcome=Outcome.ERROR, checked_at=now, error=error)


def absent(known: Freshness | None, now: float) -> Freshness:
    """The upstream has no such project (any more); what we mirrored of it is still served."""
    if known is None:
        return Freshness(Outcome.ABSENT, now)
    return evolve(known, outcome=Outcome.ABSENT, checked_at=now, error=None)


def renewed(known: Freshness, now: float) -> Freshness:
    """The upstream confirmed what we have: its expiry starts anew (devpi issue 1044)."""
    return evolve(known, outcome=Outcome.FOUND, checked_at=now, succeeded_at=now, error=None)
