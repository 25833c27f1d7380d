"""Removing, yanking, project status, refresh (devpi-api §5-§6; the last but one are ours).

DELETE /<user>/<index>/<project>                    a project; all DELETEs: ?force
DELETE /<user>/<index>/<project>/<version>          a release
DELETE /<user>/<index>/+f/…/<file>                  a file (also +e)
POST   /<user>/<index>/<project>/<version>/+yank    {"reason": text} yanks all its files (PEP 592)
DELETE /<user>/<index>/<project>/<version>/+yank    takes that back
POST, DELETE /<user>/<index>/+f/…/<file>/+yank      the same for one file
PUT    /<user>/<index>/<project>/+status            {"status": word, "reason": text} (PEP 792)
POST   /<user>/<index>/+simple/<project>/refresh    asks the mirrors behind a page now
POST   /<user>/<index>/<project>/refresh            the same

Removing is for volatile indexes, or takes ?force; yanking and status are for all hosted ones. What
is removed from a mirror comes back as its upstream has it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from urllib.parse import quote

from attrs import define
from klein import Klein
from sqlalchemy import Connection

from cluster.log.changes import Change
from cluster.model import MirrorIndex
from cluster.names import IndexName
from cluster.state import queries
from cluster.upstream.ondemand import OnDemand
from cluster.web.devpi.asking import json_object
from cluster.web.devpi.projects import known_name
from cluster.web.identity import Identity
from cluster.web.replies import Reply, json_reply, redirect
from cluster.web.request import NodeRequest
from cluster.web.routes import answering, checked
from cluster.web.simple import SimplePages
from cluster.web.toxtarget import FileLink
from primary.devpi import projectrules as rules
from primary.devpi.projectrules import Wish
from primary.writer import Writer

Rule = Callable[[Connection, Wish], list[Change]]


@define
class ProjectResource:
    """Changes what indexes hold."""

    _identity: Identity
    _writer: Writer
    _mirror: OnDemand
    _simple: SimplePages

    async def remove_project(self, request: NodeRequest, index: IndexName, name: str) -> Reply:
        """Remove a project; raises NotFound, AuthenticationRequired, Forbidden."""
        project = known_name(name)
        return await self._remove(
            request, index, lambda c, wish: rules.remove_project(c, wish, project),
            f"project {project} deleted from stage {index}",
        )  # fmt: skip

    async def remove_version(
        self, request: NodeRequest, index: IndexName, name: str, version: str
    ) -> Reply:
        """Remove a release; raises as `remove_project`."""
        project = known_name(name)
        return await self._remove(
            request, index, lambda c, wish: rules.remove_version(c, wish, project, version),
            f"project {project!r} version {version!r} deleted",
        )  # fmt: skip

    async def remove_file(self, request: NodeRequest, link: FileLink) -> Reply:
        """Remove a file; raises as `remove_project`, and Gone."""
        return await self._remove(
            request, link.index, lambda c, wish: rules.remove_file(c, wish, link),
            f"package {link.path!r} deleted",
        )  # fmt: skip

    async def _remove(
        self, request: NodeRequest, index: IndexName, rule: Rule, message: str
    ) -> Reply:
        mirrored: list[tuple[MirrorIndex, str]] = []

        def noting(connection: Connection, wish: Wish) -> list[Change]:
            changes = rule(connection, wish)
            found = queries.index(connection, index)
            if isinstance(found, MirrorIndex):
                mirrored.append((found, changes[0].payload["project"]))
            return changes

        reply = await self._write(request, index, noting, {"message": message})
        for mirror, project in mirrored:
            # Other nodes believe for a while that what they know of the project is fresh, so it
            # is fetched again now and not with the next request for it.
            await self._mirror.forget(mirror, project)
            await self._mirror.renew(mirror, project)
        return reply

    async def yank_version(
        self, request: NodeRequest, index: IndexName, name: str, version: str
    ) -> Reply:
        """Yank a release, or with DELETE take that back; raises as `remove_project`."""
        project, reason = known_name(name), _yank_reason(request)
        return await self._write(
            request, index,
            lambda c, wish: rules.yank_version(c, wish, project, version, reason),
            _yank_document(f"{project} {version}", reason),
        )  # fmt: skip

    async def yank_file(self, request: NodeRequest, link: FileLink) -> Reply:
        """Yank a file, or with DELETE take that back; raises as `remove_file`."""
        reason = _yank_reason(request)
        return await self._write(
            request, link.index, lambda c, wish: rules.yank_file(c, wish, link, reason),
            _yank_document(link.filename, reason),
        )  # fmt: skip

    async def set_status(self, request: NodeRequest, index: IndexName, name: str) -> Reply:
        """Give a project a status; raises as `remove_project`, and InvalidRequest."""
        project, status = known_name(name), rules.checked_status(json_object(request))
        message = f"project {project} on {index} is {status['status']}"
        return await self._write(
            request, index, lambda c, wish: rules.set_status(c, wish, project, status),
            {"type": "projectstatus", "result": status, "message": message},
        )  # fmt: skip

    async def refresh(self, request: NodeRequest, index: IndexName, name: str) -> Reply:
        """Ask the mirrors behind a project's page now, whoever may read it; raises NotFound."""
        project = known_name(name)
        await self._simple.sources(request, index, project, renew=True)
        is_page = request.path.split(b"/")[3:4] == [b"+simple"]
        path = f"+simple/{project}/" if is_page else project
        return redirect(f"/{quote(index)}/{path}", 302)

    async def _write(
        self, request: NodeRequest, index: IndexName, rule: Rule, document: dict[str, Any]
    ) -> Reply:
        who = await self._identity.user(request)
        wish = Wish(who, index, b"force" in request.args)
        written = await self._writer.write(str(who.name), lambda c: rule(c, wish), index)
        return json_reply(document, headers=written.headers)


def _yank_reason(request: NodeRequest) -> str | None:
    if request.method == b"DELETE":
        return None
    return rules.checked_reason(json_object(request)) or ""


def _yank_document(what: str, reason: str | None) -> dict[str, Any]:
    message = f"{what} is not yanked" if reason is None else f"{what} is yanked"
    return {"type": "yank", "result": {"yanked": reason}, "message": message}


def add_routes(app: Klein) -> None:
    """Register these; the resource is `projects` of the application."""
    index = "/<user>/<name>"
    project = f"{index}/<own:project>"
    version = f"{project}/<own:version>"
    file = f"{index}/<any('+f', '+e'):kind>/<head>/<rest>/<filename>"
    for path, methods, handler in (
        (project, ["DELETE"], _remove_project),
        (f"{project}/", ["DELETE"], _remove_project),
        (version, ["DELETE"], _remove_version),
        (f"{version}/", ["DELETE"], _remove_version),
        (file, ["DELETE"], _remove_file),
        (f"{version}/+yank", ["POST", "DELETE"], _yank_version),
        (f"{file}/+yank", ["POST", "DELETE"], _yank_file),
        (f"{project}/+status", ["PUT"], _set_status),
        (f"{index}/+simple/<own:project>/refresh", ["POST"], _refresh),
        (f"{project}/refresh", ["POST"], _refresh),
    ):
        app.route(path, methods=methods, strict_slashes=True)(answering(handler))


async def _remove_project(
    web: Any, request: NodeRequest, user: str, name: str, project: str
) -> Reply:
    projects: ProjectResource = web.projects
    return await projects.remove_project(request, checked(user, name), project)


async def _remove_version(
    web: Any, request: NodeRequest, user: str, name: str, project: str, version: str
) -> Reply:
    projects: ProjectResource = web.projects
    return await projects.remove_version(request, checked(user, name), project, version)


async def _remove_file(web: Any, request: NodeRequest, **parts: str) -> Reply:
    projects: ProjectResource = web.projects
    return await projects.remove_file(request, _link(**parts))


async def _yank_version(
    web: Any, request: NodeRequest, user: str, name: str, project: str, version: str
) -> Reply:
    projects: ProjectResource = web.projects
    return await projects.yank_version(request, checked(user, name), project, version)


async def _yank_file(web: Any, request: NodeRequest, **parts: str) -> Reply:
    projects: ProjectResource = web.projects
    return await projects.yank_file(request, _link(**parts))


async def _set_status(web: Any, request: NodeRequest, user: str, name: str, project: str) -> Reply:
    projects: ProjectResource = web.projects
    return await projects.set_status(request, checked(user, name), project)


async def _refresh(web: Any, request: NodeRequest, user: str, name: str, project: str) -> Reply:
    projects: ProjectResource = web.projects
    return await projects.refresh(request, checked(user, name), project)


def _link(*, user: str, name: str, kind: str, head: str, rest: str, filename: str) -> FileLink:
    return FileLink(checked(user, name), kind, head + rest, filename)
