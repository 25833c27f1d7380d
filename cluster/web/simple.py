"""Project pages and the project list: the simple API (PEP 503, 691, 700; standards S, H, J, N)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from urllib.parse import quote

from attrs import define, evolve
from sqlalchemy import Connection

from cluster.clock import Clock
from cluster.errors import InvalidRequest, NotAcceptable, NotFound, UpstreamError
from cluster.model import Index, MirrorIndex, ProjectPage
from cluster.names import IndexName, NormalizedName, project_name
from cluster.protocol import AGE_HEADER, SOURCE_HEADER
from cluster.simple.cache import Body, PageCache, RenderedPage, encode_page
from cluster.simple.listing import ListPages
from cluster.simple.negotiate import Format, accepts_gzip, choose
from cluster.simple.pages import render_project
from cluster.state import queries
from cluster.state.database import Database
from cluster.state.freshness import THE_LIST, Outcome
from cluster.state.position import Position
from cluster.state.queries import MayRead, everyone
from cluster.upstream.ondemand import MirrorAnswer, OnDemand, expiry
from cluster.web.access import is_public, reader_of
from cluster.web.filebody import send_file_at
from cluster.web.identity import Identity
from cluster.web.replies import Reply, redirect
from cluster.web.request import NodeRequest
from cluster.web.resolved import Resolved, at_once, chain_of, resolve
from cluster.web.unlogged import UnloggedFiles

MAX_AGE_SECONDS = 60
"""How long clients keep a page: what an upload may take to be seen by pip (standards C1)."""


@define
class SimplePages:
    """Serves pages from the cache, else from the state, after seeing to their freshness."""

    _database: Database
    _position: Position
    _clock: Clock
    _now: Callable[[], float]
    cache: PageCache
    lists: ListPages
    _mirror: OnDemand
    _unlogged: UnloggedFiles
    _identity: Identity

    def hot(self, request: NodeRequest) -> RenderedPage | None:
        """The page, if a fresh one for exactly this request is in memory."""
        if request.uri != request.path:
            return None
        try:
            format = choose(request.header("Accept"), None)
        except NotAcceptable:
            return None  # for most paths that does not matter; for a page `project` says it
        page = self.cache.get((request.path, format, ""))
        if page is None or page.fresh_until <= self._clock.seconds():
            return None
        return page

    async def project(self, request: NodeRequest, index: IndexName, name: str) -> Reply:
        """Answer with a project's page; raises NotFound, InvalidRequest, UpstreamError."""
        try:
            project = project_name(name)
        except InvalidRequest:
            raise NotFound(f"{name!r} cannot be a project") from None
        if project != name or not request.path.endswith(b"/"):
            return redirect(f"/{quote(index)}/+simple/{project}/")
        format = _format(request)
        request.as_of = read_at = self._position.serial
        wanted = None if self.cache.get((request.path, format, "")) else format
        resolved, page = await self._database.read(
            lambda c: at_once(c, index, project, wanted, read_at)
        )
        may_read = await self._reader(request, resolved, project)
        visible = "" if may_read is everyone else _names(resolved.chain, may_read)
        key = (request.path, format, visible)
        mirrors = resolved.mirrors(may_read)
        answers = [(m, await self._mirror.ensure(m, project)) for m in mirrors]
        unlogged = any(answer.unlogged for _, answer in answers)
        page = None if unlogged else page or self.cache.get(key)
        if page is None:
            page = await self._render(resolved.index, project, format, answers, may_read)
            page.is_private = may_read is not everyone
        if not unlogged:
            self.cache.put(key, page)
        self._set_freshness(page, answers)
        return page_reply(request, page)

    async def sources(
        self,
        request: NodeRequest,
        index: IndexName,
        project: NormalizedName,
        *,
        own_only: bool = False,
        renew: bool = False,
    ) -> list[tuple[Index, MirrorAnswer | None]]:
        """The indexes that a project's page is made of, as far as the sender may read them.

        Each mirror was seen to, and comes with what is known of it; with `renew` its upstream was
        asked now. `own_only` leaves out the bases. Raises NotFound, AuthenticationRequired.
        """
        resolved, may_read = await self._readable(request, index, project)
        see_to = self._mirror.renew if renew else self._mirror.ensure
        sources = [one for one in resolved.contributing if may_read(one)]
        return [
            (one, await see_to(one, project) if isinstance(one, MirrorIndex) else None)
            for one in sources
            if not own_only or one.name == index
        ]

    async def current_page(
        self, request: NodeRequest, index: IndexName, project: NormalizedName
    ) -> ProjectPage:
        """A project as the sender of the request may see it, its mirrors seen to first.

        Raises NotFound, AuthenticationRequired, UpstreamError.
        """
        resolved, may_read = await self._readable(request, index, project)
        mirrors = resolved.mirrors(may_read)
        answers = [(m, await self._mirror.ensure(m, project)) for m in mirrors]
        try:
            return await self._database.read(
                lambda c: _page(c, resolved.index, project, answers, may_read)
            )
        except NotFound:
            raise_trouble(project, answers)
            raise

    async def _readable(
        self, request: NodeRequest, index: IndexName, project: NormalizedName
    ) -> tuple[Resolved, MayRead]:
        resolved = await self._database.read(lambda c: resolve(c, index, project))
        return resolved, await self._reader(request, resolved, project)

    async def _reader(
        self, request: NodeRequest, resolved: Resolved, project: NormalizedName
    ) -> MayRead:
        if is_public(resolved.chain):
            return everyone
        reader = await reader_of(self._identity, request, project)
        reader.require(resolved.index)
        return reader

    async def _render(
        self,
        index: Index,
        project: NormalizedName,
        format: Format,
        answers: list[tuple[MirrorIndex, MirrorAnswer]],
        may_read: MayRead,
    ) -> RenderedPage:
        read_at = self._position.serial

        def render(connection: Connection) -> RenderedPage:
            page = _page(connection, index, project, answers, may_read)
            return encode_page(project, format, page.serial, read_at, render_project(page, format))

        try:
            rendered = await self._database.read(render)
        except NotFound:
            raise_trouble(project, answers)
            raise
        for mirror, answer in answers:
            if answer.unlogged is not None:
                self._unlogged.remember(mirror, project, answer.unlogged.files)
        return rendered

    def _set_freshness(
        self, page: RenderedPage, answers: list[tuple[MirrorIndex, MirrorAnswer]]
    ) -> None:
        now = self._now()
        ends = [expiry(m, a.freshness) - a.freshness.age(now) for m, a in answers]
        page.fresh_until = self._clock.seconds() + min(ends) if ends else float("inf")
        page.age_seconds = _age(answers, now)
        page.source = "upstream-unlogged" if any(a.unlogged for _, a in answers) else None
        page.heads.clear()

    async def _lists(self, index: IndexName) -> bool:
        return await self._database.read(lambda c: queries.lists_anything(c, index))

    async def project_list(self, request: NodeRequest, index: IndexName) -> Reply | None:
        """Answer with an index's project list, streamed from disk."""
        if not request.path.endswith(b"/"):
            return redirect(f"/{quote(index)}/+simple/")
        format = _format(request)
        chain = await self._database.read(lambda c: chain_of(c, index))
        visible = None
        if not is_public(chain):
            reader = await reader_of(self._identity, request)
            reader.require(next(one for one in chain if one.name == index))
            chain = [one for one in chain if reader(one)]
            visible = tuple(one.name for one in chain)
        answers: list[tuple[MirrorIndex, MirrorAnswer]] = []
        for mirror in chain:
            if isinstance(mirror, MirrorIndex):
                answers.append((mirror, await self._mirror.ensure(mirror, THE_LIST)))
                answer = answers[-1][1].freshness
                if mirror.name == index and answer.error and not await self._lists(index):
                    raise UpstreamError(f"no project list of {index} is known: {answer.error}")
        rendered = await self.lists.get(index, format, visible)
        packed = accepts_gzip(request.header("Accept-Encoding"))
        body = rendered.gzipped if packed else rendered.plain
        headers = list_headers(rendered.serial, body.etag, packed, visible is not None)
        age = _age(answers, self._now())
        if age is not None:
            headers[AGE_HEADER] = str(age)
        if matches(request, body.etag):
            return Reply(304, headers=headers)
        headers["Content-Type"] = format.content_type
        await send_file_at(request, body.path, body.size, headers, self._database.readers)
        return None


def _format(request: NodeRequest) -> Format:
    wanted = request.args.get(b"format", [b""])[0].decode("ascii", "replace")
    return choose(request.header("Accept"), wanted or None)


def _age(answers: Iterable[tuple[MirrorIndex, MirrorAnswer]], now: float) -> int | None:
    """Seconds since the oldest last success of the upstreams that fail; None if none does."""
    late = [
        now - a.freshness.succeeded_at
        for _, a in answers
        if a.freshness.outcome is Outcome.ERROR and a.freshness.succeeded_at is not None
    ]
    return int(max(late)) if late else None


def _names(chain: list[Index], may_read: MayRead) -> str:
    return " ".join(index.name for index in chain if may_read(index))


def raise_trouble(
    project: NormalizedName, answers: Iterable[tuple[MirrorIndex, MirrorAnswer]]
) -> None:
    """Raise UpstreamError, not a 404, while an upstream fails: uv would go on to the next index
    with a name that may be ours.
    """
    errors = [a.freshness.error for _, a in answers if a.freshness.outcome is Outcome.ERROR]
    if errors:
        raise UpstreamError(f"{project}: {errors[0]}") from None


def _page(
    connection: Connection,
    index: Index,
    project: NormalizedName,
    answers: list[tuple[MirrorIndex, MirrorAnswer]],
    may_read: MayRead,
) -> ProjectPage:
    page: ProjectPage | None = None
    unlogged = [answer.unlogged for _, answer in answers if answer.unlogged is not None]
    with suppress(NotFound):
        page = queries.project_page(connection, index, project, may_read)
    if page is None and not unlogged:
        raise NotFound(f"no project {project!r} on {index.name}")
    page = page or ProjectPage(project, ())
    files = {file.filename: file for file in page.files}
    for extra in unlogged:
        for file in extra.files:
            files.setdefault(file.filename, file)
        page = evolve(page, status=extra.status)
    return evolve(page, files=tuple(files[name] for name in sorted(files)))


def list_headers(serial: int, etag: str, packed: bool, is_private: bool) -> dict[str, str]:
    """The headers of a page or a list in one encoding."""
    headers = {
        "ETag": etag,
        "Cache-Control": f"max-age={MAX_AGE_SECONDS}, {'private' if is_private else 'public'}",
        "Vary": "Accept, Accept-Encoding",
        "X-PyPI-Last-Serial": str(serial),
    }
    if packed:
        headers["Content-Encoding"] = "gzip"
    return headers


def page_headers(page: RenderedPage, packed: bool) -> dict[str, str]:
    """The headers of a rendered page, with what is to be said of its age and source."""
    etag = chosen_body(page, packed).etag
    headers = list_headers(page.serial, etag, packed, page.is_private)
    if page.age_seconds is not None:
        headers[AGE_HEADER] = str(page.age_seconds)
    if page.source is not None:
        headers[SOURCE_HEADER] = page.source
        headers["Cache-Control"] = "no-store"
    return headers


def chosen_body(page: RenderedPage, packed: bool) -> Body:
    """The encoding of a page that a client gets."""
    return page.gzipped if packed else page.plain


def page_reply(request: NodeRequest, page: RenderedPage) -> Reply:
    """The answer with a rendered page, or 304 when the client has it."""
    packed = accepts_gzip(request.header("Accept-Encoding"))
    body, headers = chosen_body(page, packed), page_headers(page, packed)
    if matches(request, body.etag):
        return Reply(304, headers=headers)
    return Reply(200, body.data, page.format.content_type, headers)


def matches(request: NodeRequest, etag: str) -> bool:
    """RFC 9110 §13.1.2: If-None-Match compares weakly, and lists several tags."""
    wanted = request.header("If-None-Match")
    if wanted is None:
        return False
    tags = [tag.strip().removeprefix("W/") for tag in wanted.split(",")]
    return etag in tags or "*" in tags
