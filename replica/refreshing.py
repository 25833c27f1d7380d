"""A replica's mirrors: the primary is asked, and the upstream only while the primary is away."""

from __future__ import annotations

from collections.abc import Callable

from attrs import define

from cluster.errors import PymirrorError, Unavailable
from cluster.model import MirrorIndex
from cluster.names import NormalizedName, normalize
from cluster.state import queries
from cluster.state.database import Database
from cluster.state.freshness import Freshness, Outcome
from cluster.state.position import Position
from cluster.threads import Runner
from cluster.upstream.client import Page, UpstreamClient
from cluster.upstream.health import UpstreamHealth
from cluster.upstream.ondemand import MirrorAnswer, absent, failure
from cluster.upstream.parse import parse_project
from cluster.upstream.urls import project_url
from replica.follower import Follower
from replica.following import Unreachable
from replica.primary_client import Answer, PrimaryClient

_APPLY_SECONDS = 5.0
# A primary that hangs costs one client a time-out now and then, not every client.
_AVOID_SECONDS = 30.0


@define
class PrimaryRefresher:
    """A `Refresher` that asks the primary and waits until its answer is applied here."""

    _client: PrimaryClient
    _follower: Follower
    _position: Position
    _database: Database
    _upstream: UpstreamClient
    _parsers: Runner
    _health: UpstreamHealth
    _now: Callable[[], float]
    _avoid_until: float = 0.0

    async def refresh(
        self, index: MirrorIndex, project: str, known: Freshness | None
    ) -> MirrorAnswer:
        """Ask the primary; while it is away, serve what is here, else ask upstream, unlogged."""
        error: PymirrorError = Unreachable("the primary is out of reach")
        if self._follower.reachable and self._now() >= self._avoid_until:
            try:
                answer = await self._client.refresh(index.name, project)
                if await self._position.reached(answer.serial, _APPLY_SECONDS):
                    return MirrorAnswer(self._said(answer, index, project, known))
                # What the primary found is not here yet: to say "found" now would be a 404.
                error = Unavailable(f"this replica has not applied serial {answer.serial} yet")
            except PymirrorError as refused:
                error = refused
                if isinstance(refused, Unreachable):
                    self._avoid_until = self._now() + _AVOID_SECONDS
        if not project or await self._is_here(index, normalize(project)):
            return MirrorAnswer(failure(known, self._now(), str(error)))
        return await self._directly(index, normalize(project), known)

    def _said(
        self, answer: Answer, index: MirrorIndex, project: str, known: Freshness | None
    ) -> Freshness:
        said, now = answer.json(), self._now()
        try:
            age = float(said["age_seconds"])
            success = said.get("success_age_seconds")
            return Freshness(
                Outcome(said["outcome"]),
                checked_at=now - age,
                succeeded_at=None if success is None else now - float(success),
                url=index.mirror_url and project_url(index.mirror_url, project),
                error=said.get("error"),
            )
        except (KeyError, TypeError, ValueError) as error:
            return failure(known, now, f"the primary's answer is not understood: {error!r}")

    async def _is_here(self, index: MirrorIndex, project: NormalizedName) -> bool:
        return await self._database.read(lambda c: queries.has_project(c, index.name, project))

    async def _directly(
        self, index: MirrorIndex, project: NormalizedName, known: Freshness | None
    ) -> MirrorAnswer:
        try:
            answer = await self._upstream.project(index, project, None)
            if not isinstance(answer, Page):
                return MirrorAnswer(absent(known, self._now()))
            page = await self._parsers.run(
                parse_project, answer.body, answer.content_type, answer.base, project
            )
        except PymirrorError as error:
            self._health.failed(index.name, project, str(error))
            return MirrorAnswer(failure(known, self._now(), str(error)))
        self._health.succeeded(index.name, project)
        return MirrorAnswer(Freshness(Outcome.FOUND, self._now(), self._now()), page)
