"""PUT /<user>/<index>: create an index, as devpi does it (devpi-api §4)."""

from __future__ import annotations

import orjson
from attrs import define
from sqlalchemy import Connection

from cluster.auth.acl import require_configure
from cluster.errors import Conflict, InvalidRequest, NotFound
from cluster.log.changes import Change
from cluster.model import Index
from cluster.names import IndexName
from cluster.protocol import SERIAL_HEADER
from cluster.state import queries
from cluster.state.options import kind_of, parse_options, require_bases, shown_options
from cluster.web.identity import Identity
from cluster.web.replies import Reply, json_reply
from cluster.web.request import NodeRequest
from primary.bootstrap import index_set
from primary.writer import Writer


@define
class IndexResource:
    """Creates indexes."""

    _identity: Identity
    _writer: Writer

    async def create(self, request: NodeRequest, name: IndexName) -> Reply:
        """Create an index from the JSON body; raises Conflict if it is there already."""
        who = await self._identity.user(request)
        require_configure(who, name)
        body = request.content.read() or b"{}"
        try:
            given = orjson.loads(body)
        except orjson.JSONDecodeError:
            raise InvalidRequest("the body is not JSON") from None
        if not isinstance(given, dict):
            raise InvalidRequest("the body is not a JSON object of index options")
        parsed = parse_options(name, given)
        if parsed.secrets:
            raise InvalidRequest("passwords of upstreams and webhooks cannot be kept yet")
        index = parsed.index
        written = await self._writer.write(str(who.name), lambda c: _decide(c, index))
        result = {"type": kind_of(index), **shown_options(index), "projects": []}
        return json_reply(
            {"type": "indexconfig", "result": result, "message": f"index {name} created"},
            headers={SERIAL_HEADER: str(written.serial)},
        )


def _decide(connection: Connection, index: Index) -> list[Change]:
    user = index.name.partition("/")[0]
    if queries.user(connection, user) is None:
        raise NotFound(f"no user {user!r}")
    if queries.index(connection, index.name) is not None:
        raise Conflict(f"index {index.name} exists")
    require_bases(index, lambda base: queries.index(connection, base) is not None)
    return [index_set(index)]
