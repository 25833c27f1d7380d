"""The primary asks upstreams: a project's page becomes a delta in the log.

Order: the delta is durable before the freshness that says "this is what upstream had", so a
crash between costs one more question, never a change.
"""

from __future__ import annotations

from collections.abc import Callable

from attrs import define, evolve
from sqlalchemy import Connection

from cluster.errors import PymirrorError
from cluster.log.changes import Change, Kind
from cluster.model import MirrorIndex
from cluster.names import NormalizedName, normalize
from cluster.state import queries
from cluster.state.database import Database
from cluster.state.freshness import Freshness, Outcome
from cluster.state.links import LocatedFile
from cluster.threads import Runner
from cluster.upstream.client import Absent, NotModified, Page, UpstreamClient
from cluster.upstream.health import UpstreamHealth
from cluster.upstream.ondemand import MirrorAnswer, absent, failure, renewed
from cluster.upstream.parse import ParsedProject, parse_project
from primary.mirroring.delta import computed, project_delta
from primary.mirroring.listing import ListRefresher
from primary.writer import Writer

ACTOR = "+mirror"
_OLDER_SECONDS = 86_400.0


@define
class UpstreamRefresher:
    """A `Refresher` that asks the upstream itself."""

    _client: UpstreamClient
    _writer: Writer
    _database: Database
    _parsers: Runner
    _health: UpstreamHealth
    _list: ListRefresher
    _now: Callable[[], float]

    async def refresh(
        self, index: MirrorIndex, project: str, known: Freshness | None
    ) -> MirrorAnswer:
        """Ask the upstream about a project, or about its list, and log what changed."""
        try:
            if project:
                answer = await self._project(index, normalize(project), known)
            else:
                answer = await self._list.refresh(index, known)
        except PymirrorError as error:
            self._health.failed(index.name, project, str(error))
            return MirrorAnswer(failure(known, self._now(), str(error)))
        if answer.error is None:
            self._health.succeeded(index.name, project)
        else:
            self._health.failed(index.name, project, answer.error)
        return MirrorAnswer(answer)

    async def _project(
        self, index: MirrorIndex, project: NormalizedName, known: Freshness | None
    ) -> Freshness:
        if not await self._is_here(index, project):
            known = None  # nothing to be confirmed: a restored backup may have lost what we knew
        answer = await self._client.project(index, project, known)
        now = self._now()
        if isinstance(answer, Absent):
            return absent(known, now)
        if isinstance(answer, NotModified):
            assert known is not None  # noqa: S101 (the client refuses an unasked 304)
            return renewed(known, now)
        page = await self._parsers.run(
            parse_project, answer.body, answer.content_type, answer.base, project
        )
        serial = page.upstream_serial or answer.serial
        if index.mirror_ignore_serial_header:
            serial = None
        if _is_older(serial, answer.url, known, now):
            # A content network may serve yesterday's page; ours is newer (standards C5).
            return failure(known, now, f"upstream went back to its serial {serial}")
        if not page.files and known is not None and "html" in answer.content_type:
            # A notice of maintenance, say; not the word that all files are gone.
            return failure(known, now, "upstream's page has no files at all")
        await self._record(index, project, page)
        return evolve(found(answer, serial, now), error=_complaint(page))

    async def _is_here(self, index: MirrorIndex, project: NormalizedName) -> bool:
        return await self._database.read(lambda c: queries.has_project(c, index.name, project))

    async def _record(
        self, index: MirrorIndex, project: NormalizedName, page: ParsedProject
    ) -> None:
        await self._writer.write(
            ACTOR,
            lambda c: (
                project_delta(
                    index.name,
                    project,
                    queries.project_files(c, index.name, project),
                    queries.project_facts(c, index.name, project),
                    page,
                )
                if queries.index(c, index.name) is not None
                else []
            ),
        )

    async def learned(self, located: LocatedFile, sha256: str, size: int) -> None:
        """A file that upstream gave no hash for was fetched once: log its digest and size."""
        name, project, filename = located.index.name, located.project, located.file.filename

        def decide(connection: Connection) -> list[Change]:
            file = queries.file_by_name(connection, name, project, filename)
            if file is None or file.sha256 is not None or file.url != located.file.url:
                return []
            facts = {"index": name, "project": project}
            return [
                Change(
                    Kind.MIRROR_PROJECT,
                    {**facts, "files": [computed(file, sha256, size).to_json()]},
                )
            ]

        await self._writer.write(ACTOR, decide)


def found(page: Page, serial: int | None, now: float) -> Freshness:
    """The upstream sent a page that was taken over."""
    return Freshness(
        Outcome.FOUND, now, now, page.url, page.etag, page.last_modified, serial
    )  # fmt: skip


def _complaint(page: ParsedProject) -> str | None:
    if not page.skipped:
        return None
    return f"{len(page.skipped)} entries were not understood, such as {page.skipped[0]!r}"


def _is_older(serial: int | None, url: str, known: Freshness | None, now: float) -> bool:
    if serial is None or known is None or known.upstream_serial is None or known.url != url:
        return False
    # An upstream that was set up anew counts from the beginning: believe it after a day.
    settled = now - (known.succeeded_at or 0.0) > _OLDER_SECONDS
    return serial < known.upstream_serial and not settled
