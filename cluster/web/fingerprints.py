"""GET /+node/state…: digests of the index state, for `pymirror verify`. Nodes only."""

from __future__ import annotations

import re
from typing import Any

from klein import Klein
from sqlalchemy import Connection

from cluster.errors import InvalidRequest
from cluster.protocol import PROJECTS_PATH, STATE_PATH
from cluster.state import fingerprint, queries, schema
from cluster.web.replies import Reply, json_reply
from cluster.web.request import NodeRequest
from cluster.web.routes import answering

_BUCKET = re.compile(r"[0-9a-f]{2}|[a-z]{3,20}", re.ASCII)
_NO_STORE = {"Cache-Control": "no-store"}


def add_routes(app: Klein) -> None:
    """Register the projects of a node, the digests of all buckets, and of what is in one."""
    app.route(PROJECTS_PATH, methods=["GET"], strict_slashes=True)(answering(_projects))
    app.route(STATE_PATH, methods=["GET"], strict_slashes=True)(answering(_buckets))
    app.route(f"{STATE_PATH}/<bucket>", methods=["GET"], strict_slashes=True)(answering(_bucket))


async def _projects(web: Any, request: NodeRequest) -> Reply:
    web.identity.require_node(request)
    after = (request.args.get(b"after") or [b""])[0].decode("utf-8", "replace")
    index, _, project = after.partition(" ")
    page = await web.database.read(lambda c: fingerprint.projects_after(c, index, project))
    return json_reply({"projects": page}, headers=_NO_STORE)


async def _buckets(web: Any, request: NodeRequest) -> Reply:
    web.identity.require_node(request)

    def read(connection: Connection) -> dict[str, Any]:
        found = fingerprint.buckets(connection)
        serial = queries.head(connection).serial
        return {"schema": schema.VERSION, "serial": serial, "buckets": found}

    return json_reply(await web.database.read(read), headers=_NO_STORE)


async def _bucket(web: Any, request: NodeRequest, bucket: str) -> Reply:
    web.identity.require_node(request)
    if not _BUCKET.fullmatch(bucket):
        raise InvalidRequest("a bucket is two hex digits, or the name of a table")

    def read(connection: Connection) -> dict[str, Any]:
        head = queries.head(connection)
        return {"serial": head.serial, "keys": fingerprint.keys_of(connection, bucket)}

    return json_reply(await web.database.read(read), headers=_NO_STORE)
