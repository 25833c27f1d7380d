"""``GET /+search``: what the search finds, as JSON, over the indexes that the caller may read."""

from __future__ import annotations

from typing import Any, Final

from attrs import asdict, define
from klein import Klein
from twisted.internet.defer import Deferred

from cluster.errors import InvalidRequest
from cluster.model import Index
from cluster.search.index import SearchIndex
from cluster.state import queries
from cluster.state.database import Database
from cluster.upstream.ondemand import OnDemand
from cluster.web.access import reader_of
from cluster.web.chains import readable_chain, refresh_lists
from cluster.web.identity import Identity
from cluster.web.replies import Reply, json_reply
from cluster.web.request import NodeRequest
from cluster.web.routes import answering, checked

PAGE_HITS: Final = 50
_MAX_PAGE: Final = 1_000


@define
class SearchPages:
    """Answers questions to the search."""

    _database: Database
    _identity: Identity
    _search: SearchIndex
    _mirror: OnDemand

    async def find(self, request: NodeRequest) -> Reply:
        """Hits for ``query``, a page of PAGE_HITS at a time, best first.

        With ``index=<user>/<name>`` over that index and its bases, else over all that may be
        read. Raises InvalidRequest, NotFound, AuthenticationRequired.
        """
        page = _number(_argument(request, "page") or "1")
        chain = await self._readable(request, _argument(request, "index"))
        # Not waited for: what comes is found by the next search.
        Deferred.fromCoroutine(refresh_lists(self._mirror, chain))
        indexes = [index.name for index in chain]
        query = _argument(request, "query")
        offset = (page - 1) * PAGE_HITS
        hits = await self._search.find(indexes, query, limit=PAGE_HITS + 1, offset=offset)
        result = {
            "query": query,
            "page": page,
            "more": len(hits) > PAGE_HITS,
            "hits": [asdict(hit) for hit in hits[:PAGE_HITS]],
            **self._search.document(),
        }
        headers = {"Cache-Control": "no-store"}
        return json_reply({"type": "searchresult", "result": result}, headers=headers)

    async def _readable(self, request: NodeRequest, start: str) -> list[Index]:
        if start:
            user, _, name = start.strip("/").partition("/")
            index = checked(user, name)
            return await readable_chain(self._database, self._identity, request, index)
        known = await self._database.read(queries.indexes_of)
        reader = await reader_of(self._identity, request)
        return [index for index in known if reader(index)]


def _argument(request: NodeRequest, name: str) -> str:
    values: list[bytes] = request.args.get(name.encode(), [b""])
    return values[0].decode("utf-8", "replace")


def _number(text: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 4 or not 1 <= int(text) <= _MAX_PAGE:
        raise InvalidRequest(f"page must be a number from 1 to {_MAX_PAGE}")
    return int(text)


def add_routes(app: Klein) -> None:
    """Register the path of the search."""
    app.route("/+search", methods=["GET", "HEAD"], strict_slashes=True)(answering(_find))


async def _find(web: Any, request: NodeRequest) -> Reply:
    pages: SearchPages = web.finding.pages
    return await pages.find(request)
