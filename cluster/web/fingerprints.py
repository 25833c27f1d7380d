"""GET /+node/state…: digests of the index state, for `pymirror verify`. Nodes only."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Final

from klein import Klein
from sqlalchemy import Connection

from cluster.errors import InvalidRequest
from cluster.protocol import PROJECTS_PATH, STATE_PATH
from cluster.state import fingerprint, queries, schema
from cluster.web.replies import Reply, json_reply
from cluster.web.request import NodeRequest
from cluster.web.routes import answering

_BUCKET = re.compile(r"[0-9a-f]{2}|[a-z]{3,20}", re.ASCII)
_SERIAL = re.compile(r"[0-9]{1,18}", re.ASCII)
_WAIT_SECONDS: Final = 5.0
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
    return await _digests(web, request, lambda c: {"buckets": fingerprint.buckets(c)})


async def _bucket(web: Any, request: NodeRequest, bucket: str) -> Reply:
    if not _BUCKET.fullmatch(bucket):
        raise InvalidRequest("a bucket is two hex digits, or the name of a table")
    return await _digests(web, request, lambda c: {"keys": fingerprint.keys_of(c, bucket)})


async def _digests(
    web: Any, request: NodeRequest, found: Callable[[Connection], dict[str, Any]]
) -> Reply:
    """What is `found` in the present state; with ``at=<serial>`` in the state at that serial.

    It is waited for. No state is kept: when it has passed, the present serial alone is the
    answer, which costs nothing, so that who compares two busy nodes can ask again at once.
    """
    web.identity.require_node(request)
    text = (request.args.get(b"at") or [b""])[0].decode("ascii", "replace")
    if text and not _SERIAL.fullmatch(text):
        raise InvalidRequest("at is a serial")
    at = int(text) if text else None
    if at is not None:
        await web.position.reached(at, _WAIT_SECONDS)

    def read(connection: Connection) -> dict[str, Any]:
        serial = queries.head(connection).serial
        said = {"schema": schema.VERSION, "serial": serial}
        return said | found(connection) if at in (None, serial) else said

    return json_reply(await web.database.read(read), headers=_NO_STORE)
