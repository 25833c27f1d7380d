"""GET /<user>/<index>: an index's options and its own projects (devpi-api §4)."""

from __future__ import annotations

from collections.abc import Iterator
from io import BytesIO
from itertools import islice
from typing import Any, Final
from urllib.parse import quote

import orjson
from attrs import define
from klein import Klein
from sqlalchemy import Connection

from cluster.errors import UpstreamError
from cluster.model import Index, MirrorIndex
from cluster.names import IndexName
from cluster.state import queries
from cluster.state.database import Database
from cluster.state.freshness import THE_LIST
from cluster.upstream.ondemand import OnDemand
from cluster.web.access import reader_of
from cluster.web.devpi.asking import wants_simple
from cluster.web.devpi.discovery import PRIVATE
from cluster.web.devpi.users import index_config
from cluster.web.identity import Identity
from cluster.web.replies import Reply, json_reply, redirect
from cluster.web.request import NodeRequest
from cluster.web.routes import answering, checked

# A few milliseconds of work: longer pieces would keep the reactor from its turn.
_NAMES_AT_ONCE: Final = 2_000


@define
class IndexPages:
    """Shows indexes; the list of a mirror's projects is brought up to date first."""

    _identity: Identity
    _database: Database
    _mirror: OnDemand

    async def show(self, request: NodeRequest, name: IndexName) -> Reply:
        """An index, with its projects unless ``?no_projects`` is there.

        Raises NotFound, AuthenticationRequired, and UpstreamError when nothing is known of a
        mirror's projects because its upstream does not answer.
        """
        if wants_simple(request):
            return redirect(f"/{quote(name)}/+simple/", 302)
        index = await self._database.read(lambda c: queries.index_or_404(c, name))
        (await reader_of(self._identity, request)).require(index)
        if b"no_projects" in request.args:
            result = index_config(index)
            return json_reply({"type": "indexconfig", "result": result}, headers=PRIVATE)
        if isinstance(index, MirrorIndex):
            await self._see_to_list(index)
        body = await self._database.read(lambda c: _with_projects(c, index))
        return Reply(200, body, headers=PRIVATE)

    async def _see_to_list(self, mirror: MirrorIndex) -> None:
        error = (await self._mirror.ensure(mirror, THE_LIST)).freshness.error
        if error is None:
            return
        if not await self._database.read(lambda c: queries.lists_anything(c, mirror.name)):
            raise UpstreamError(f"no project list of {mirror.name} is known: {error}")


def _with_projects(connection: Connection, index: Index) -> bytes:
    """The JSON document, written as the names come: a mirror has hundreds of thousands."""
    names = (row[0] for row in queries.listed(connection, [index.name]))
    out = BytesIO()
    out.write(b'{"type":"indexconfig","result":')
    out.write(orjson.dumps(index_config(index))[:-1])
    out.write(b',"projects":[')
    for number, some in enumerate(_pieces(names)):
        out.write((b",\n" if number else b"") + orjson.dumps(some)[1:-1])
    out.write(b"]}}\n")
    return out.getvalue()


def _pieces(names: Iterator[str]) -> Iterator[list[str]]:
    while some := list(islice(names, _NAMES_AT_ONCE)):
        yield some


def add_routes(app: Klein) -> None:
    """Register /<user>/<index>; the resource is `index_pages` of the application."""
    for path in ("/<user>/<name>", "/<user>/<name>/"):
        app.route(path, methods=["GET", "HEAD"], strict_slashes=True)(answering(_show))


async def _show(web: Any, request: NodeRequest, user: str, name: str) -> Reply:
    pages: IndexPages = web.index_pages
    return await pages.show(request, checked(user, name))
