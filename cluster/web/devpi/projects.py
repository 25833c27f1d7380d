"""GET /<user>/<index>/<project>[/<version>]: what an index and its bases have (devpi-api §6-§7).

Installers are sent to the simple page. Everybody else gets JSON, also without asking for it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final
from urllib.parse import quote

import orjson
from attrs import define
from klein import Klein
from sqlalchemy import Connection

from cluster.errors import InvalidRequest, NotFound
from cluster.model import MirrorIndex
from cluster.names import IndexName, NormalizedName, display_version, project_name
from cluster.state import queries
from cluster.state.database import Database
from cluster.web.devpi.asking import wants_simple
from cluster.web.devpi.links import JSON_HEADERS, Source, latest, project_config
from cluster.web.outside import outside_url
from cluster.web.replies import Reply, json_reply, redirect
from cluster.web.request import NodeRequest
from cluster.web.routes import answering, checked
from cluster.web.simple import SimplePages, raise_trouble

_CHOICES: Final = ("latest", "stable")


@define
class ProjectPages:
    """Shows projects and releases; mirrors are seen to first, as for simple pages.

    `outside` is the value of ``--outside-url``.
    """

    _database: Database
    _simple: SimplePages
    _outside: str | None

    async def project(self, request: NodeRequest, index: IndexName, name: str) -> Reply:
        """All releases of a project, with ``?ignore_bases`` those of the index alone.

        Raises NotFound, AuthenticationRequired, UpstreamError.
        """
        project = known_name(name)
        if wants_simple(request):
            return redirect(f"/{quote(index)}/+simple/{project}/", 302)
        if project != name:
            return redirect(_with_query(request, f"/{quote(index)}/{project}"), 302)
        body = await self._rendered(request, index, project, None)
        return Reply(200, body, headers=JSON_HEADERS)

    async def version(
        self, request: NodeRequest, index: IndexName, name: str, version: str
    ) -> Reply:
        """One release; ``latest`` and ``stable`` stand for the newest. Raises as `project`."""
        project = known_name(name)
        if project != name:
            path = f"/{quote(index)}/{project}/{quote(version, safe='')}"
            return redirect(_with_query(request, path), 302)
        body = await self._rendered(request, index, project, version)
        return Reply(200, body, headers=JSON_HEADERS)

    async def status(self, request: NodeRequest, index: IndexName, name: str) -> Reply:
        """The status of a project (PEP 792) on the index itself; raises as `project`."""
        project = known_name(name)
        await self._simple.sources(request, index, project, own_only=True)
        facts = await self._database.read(lambda c: queries.project_facts(c, index, project))
        if facts is None:
            raise NotFound(f"no project {project!r}")
        status = {"status": facts[0].status, "reason": facts[0].reason}
        return json_reply({"type": "projectstatus", "result": status}, headers=JSON_HEADERS)

    async def _rendered(
        self, request: NodeRequest, index: IndexName, project: NormalizedName, version: str | None
    ) -> bytes:
        own_only = b"ignore_bases" in request.args
        seen = await self._simple.sources(request, index, project, own_only=own_only)
        sources = [Source(i, a.unlogged.files if a and a.unlogged else ()) for i, a in seen]
        base = outside_url(request, self._outside)

        def render(connection: Connection) -> bytes:
            found = project_config(connection, sources, project, base)
            if found is None:
                raise NotFound(f"no project {project!r}")
            if not own_only and _is_quarantined(connection, sources, project):
                found = {}
            if version is None:
                return orjson.dumps({"type": "projectconfig", "result": found})
            data = found[_chosen(found, version, project)]
            return orjson.dumps({"type": "versiondata", "result": data})

        try:
            return await self._database.read(render)
        except NotFound:
            raise_trouble(project, [(i, a) for i, a in seen if a and isinstance(i, MirrorIndex)])
            raise


def _is_quarantined(
    connection: Connection, sources: Iterable[Source], project: NormalizedName
) -> bool:
    """PEP 792: nothing is offered then, but its keeper still sees all with ``?ignore_bases``."""
    facts = (queries.project_facts(connection, s.index.name, project) for s in sources)
    first = next((fact for fact in facts if fact is not None), None)
    return first is not None and first[0].status == "quarantined"


def _chosen(found: dict[str, Any], version: str, project: str) -> str:
    wanted = display_version(version)
    if wanted not in found and version in _CHOICES:
        wanted = latest(found, stable=version == "stable") or version
    if wanted not in found:
        raise NotFound(f"The version {version} of project {project} does not exist.")
    return wanted


def known_name(name: str) -> NormalizedName:
    """A project's name out of a URL, normalized; raises NotFound for what cannot be one."""
    try:
        return project_name(name)
    except InvalidRequest:
        raise NotFound(f"no project {name!r}") from None


def _with_query(request: NodeRequest, path: str) -> str:
    query = request.uri.partition(b"?")[2].decode("ascii", "replace")
    return f"{path}?{query}" if query else path


def add_routes(app: Klein) -> None:
    """Register the paths of projects; the resource is `project_pages` of the application."""
    project = "/<user>/<name>/<own:project>"
    for path, handler in (
        (project, _project),
        (f"{project}/", _project),
        (f"{project}/+status", _project_status),
        (f"{project}/<own:version>", _version),
        (f"{project}/<own:version>/", _version),
    ):
        app.route(path, methods=["GET", "HEAD"], strict_slashes=True)(answering(handler))


async def _project(web: Any, request: NodeRequest, user: str, name: str, project: str) -> Reply:
    pages: ProjectPages = web.project_pages
    return await pages.project(request, checked(user, name), project)


async def _project_status(
    web: Any, request: NodeRequest, user: str, name: str, project: str
) -> Reply:
    pages: ProjectPages = web.project_pages
    return await pages.status(request, checked(user, name), project)


async def _version(
    web: Any, request: NodeRequest, user: str, name: str, project: str, version: str
) -> Reply:
    pages: ProjectPages = web.project_pages
    return await pages.version(request, checked(user, name), project, version)
