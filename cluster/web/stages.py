"""What waits to be published together: the stages of an index, on both kinds of node.

An upload with ``?stage=<id>`` is recorded, and shown to nobody until its stage is published.
"""

from __future__ import annotations

import re
from typing import Any, Final

import orjson
from klein import Klein
from sqlalchemy import Connection, select

from cluster.auth.acl import Principal, require_upload
from cluster.errors import InvalidRequest, NotFound
from cluster.model import HostedIndex
from cluster.names import IndexName
from cluster.state import queries
from cluster.state.schema import staged
from cluster.web.replies import Reply, json_reply
from cluster.web.request import NodeRequest
from cluster.web.routes import answering, checked

STAGES_PATH: Final = "/<user>/<name>/+stages"
_ID = re.compile(r"(?!\.\.?$)[A-Za-z0-9._-]{1,64}")


def stage_id(text: str) -> str:
    """Check the name of a stage; raises InvalidRequest."""
    if not _ID.fullmatch(text):
        raise InvalidRequest(
            f"{text[:70]!r} is no name of a stage: use 1 to 64 of A-Z a-z 0-9 . _ -"
        )
    return text


def stage_of(request: NodeRequest) -> str | None:
    """The stage that an upload is for, from ``?stage=``; None for none."""
    values = request.args.get(b"stage")
    return stage_id(values[0].decode("utf-8", "replace")) if values else None


def stages_of(connection: Connection, index: IndexName, who: Principal) -> list[dict[str, Any]]:
    """The stages of an index: id, files, releases; for those who may upload there."""
    found = queries.index_or_404(connection, index)
    if not isinstance(found, HostedIndex):
        raise NotFound(f"{index} is a mirror index: it has no stages")
    require_upload(who, found)
    rows = connection.execute(
        select(staged.c.stage, staged.c.payload)
        .where(staged.c.index_name == index)
        .order_by(staged.c.stage, staged.c.serial)
    )
    stages: dict[str, dict[str, Any]] = {}
    for row in rows:
        stage = stages.setdefault(row.stage, {"id": row.stage, "files": [], "releases": []})
        payload = orjson.loads(row.payload)
        held = payload.get("file") or payload.get("docs")
        kind = "releases" if held is None else "files"
        what = held["filename"] if held else f"{payload['project']}=={payload['version']}"
        if what not in stage[kind]:
            stage[kind].append(what)
    return list(stages.values())


def add_routes(app: Klein) -> None:
    """Register the list of stages."""
    app.route(STAGES_PATH, methods=["GET", "HEAD"], strict_slashes=True)(answering(_list))


async def _list(web: Any, request: NodeRequest, user: str, name: str) -> Reply:
    index = checked(user, name)
    who = await web.identity.user(request)
    stages = await web.database.read(lambda c: stages_of(c, index, who))
    headers = {"Cache-Control": "no-store"}
    return json_reply({"type": "stagelist", "result": stages}, headers=headers)
