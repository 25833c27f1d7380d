"""/<user>/<index>/+stages/<id>: publish what waits there in one entry of the log, or drop it."""

from __future__ import annotations

from typing import Any, Final

from attrs import define
from klein import Klein
from sqlalchemy import Connection

from cluster.auth.acl import Principal, require_upload
from cluster.errors import Conflict, Forbidden, NotFound
from cluster.log.changes import Change, Kind
from cluster.model import DistributionFile, HostedIndex
from cluster.names import IndexName
from cluster.state.releases import staged_changes
from cluster.web.identity import Identity
from cluster.web.replies import Reply, json_reply
from cluster.web.request import NodeRequest
from cluster.web.routes import answering, checked
from cluster.web.stages import STAGES_PATH, stage_id
from primary.staged import Holdings
from primary.uploadrules import docs_conflict, file_conflict, hosted, require_open
from primary.writer import Writer

STAGE_PATH: Final = f"{STAGES_PATH}/<stage>"
_MOST_SHOWN: Final = 100


@define
class Staging:
    """Publishes and drops stages."""

    _identity: Identity
    _writer: Writer

    async def publish(self, request: NodeRequest, index: IndexName, stage: str) -> Reply:
        """Let all that waits in a stage happen at once; raises Conflict and nothing happens."""
        return await self._end(request, Kind.STAGE_PUBLISHED, index, stage)

    async def drop(self, request: NodeRequest, index: IndexName, stage: str) -> Reply:
        """Forget what waits in a stage."""
        return await self._end(request, Kind.STAGE_DROPPED, index, stage)

    async def _end(self, request: NodeRequest, kind: Kind, index: IndexName, stage: str) -> Reply:
        who = await self._identity.user(request)
        actor = who.name or ":anonymous:"
        written = await self._writer.write(
            actor, lambda c: ended(c, who, kind, index, stage), index
        )
        done = "published" if kind is Kind.STAGE_PUBLISHED else "dropped"
        return json_reply(
            {"message": f"stage {stage} of {index} {done}"},
            headers=written.headers,
        )


def ended(
    connection: Connection, who: Principal, kind: Kind, index: IndexName, stage: str
) -> list[Change]:
    """Publish or drop a stage.

    Raises AuthenticationRequired or Forbidden for who may not upload one of its projects,
    NotFound for a stage with nothing in it, Conflict that names every trouble of a publication.
    """
    found = hosted(connection, index)
    require_upload(who, found)
    waiting = staged_changes(connection, index, stage)
    if not waiting:
        raise NotFound(f"nothing waits in stage {stage!r} of {index}")
    for project in sorted({payload["project"] for _, payload in waiting}):
        require_upload(who, found, project)
    if kind is Kind.STAGE_PUBLISHED:
        trouble = _troubles(connection, who, found, waiting)
        if trouble:
            raise Conflict("; ".join(trouble[:_MOST_SHOWN]))
    return [Change(kind, {"index": index, "stage": stage})]


def _troubles(
    connection: Connection,
    who: Principal,
    index: HostedIndex,
    waiting: list[tuple[Kind, dict[str, Any]]],
) -> list[str]:
    """Why a stage cannot be published as it is; each reason once, in the order of the uploads."""
    found: list[str | None] = []
    for kind, payload in waiting:
        project = payload["project"]
        held = Holdings(connection, index.name, project)
        try:
            require_open(connection, index.name, who, project)
        except Forbidden as error:
            found.append(str(error))
        if kind is Kind.FILE_ADDED:
            found.append(file_conflict(index, held, DistributionFile(**payload["file"])))
        elif kind is Kind.DOCS_SET:
            found.append(docs_conflict(index, held, payload["version"], payload["docs"]))
    return [reason for reason in dict.fromkeys(found) if reason is not None]


def add_routes(app: Klein) -> None:
    """Register the paths; the resource is `staging` of the application."""
    for path, methods, handler in (
        (f"{STAGE_PATH}/publish", ["POST"], _publish),
        (STAGE_PATH, ["DELETE"], _drop),
    ):
        app.route(path, methods=methods, strict_slashes=True)(answering(handler))


async def _publish(web: Any, request: NodeRequest, user: str, name: str, stage: str) -> Reply:
    staging: Staging = web.staging
    return await staging.publish(request, checked(user, name), stage_id(stage))


async def _drop(web: Any, request: NodeRequest, user: str, name: str, stage: str) -> Reply:
    staging: Staging = web.staging
    return await staging.drop(request, checked(user, name), stage_id(stage))
