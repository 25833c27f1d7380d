"""XML-RPC at an index's URL: ``pip search``, and what old mirrors ask (devpi-api §8, X1-X4)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, Literal, cast
from xmlrpc.client import Fault

from attrs import define, frozen
from twisted.internet.defer import Deferred
from twisted.logger import Logger

from cluster.errors import NotFound, PymirrorError
from cluster.model import Index
from cluster.names import IndexName, project_name
from cluster.search.index import MAX_HITS, SearchIndex, SearchOff
from cluster.search.store import Hit
from cluster.state.database import Database
from cluster.state.position import Position
from cluster.threads import Runner
from cluster.upstream.ondemand import OnDemand
from cluster.web.chains import readable_chain, refresh_lists
from cluster.web.filebody import send_file_at
from cluster.web.identity import Identity
from cluster.web.legacy import LegacyJson
from cluster.web.replies import Reply
from cluster.web.request import NodeRequest
from cluster.web.xmlcalls import FAULT_CODE, Call, answer, fault, parse_call
from cluster.web.xmllists import PackageLists, changes_since

CONTENT_TYPE: Final = "text/xml; charset=utf-8"
_HEADERS: Final = {"Content-Type": CONTENT_TYPE, "Cache-Control": "no-store"}
# pip cannot read an empty version, and of what a mirror only lists none is known.
UNKNOWN_VERSION: Final = "0"


def is_xmlrpc(request: NodeRequest) -> bool:
    """Whether a POST to an index is a call, by its type."""
    kind = (request.header("Content-Type") or "").partition(";")[0].strip().lower()
    return request.method == b"POST" and kind in ("text/xml", "application/xml")


@frozen
class Asked:
    """A call's request, and the indexes behind its URL that the caller may read, in order."""

    request: NodeRequest
    index: IndexName
    chain: list[Index]

    @property
    def names(self) -> list[IndexName]:
        """The names of the indexes."""
        return [index.name for index in self.chain]


Method = Callable[..., Awaitable[Any]]


@define
class XmlRpc:
    """Answers calls. `heavy` runs what parses and renders documents."""

    _log = Logger()

    _database: Database
    _position: Position
    _identity: Identity
    _search: SearchIndex
    _legacy: LegacyJson
    _lists: PackageLists
    _mirror: OnDemand
    _heavy: Runner

    async def call(self, request: NodeRequest, index: IndexName) -> Reply | None:
        """Answer the call in the request's body; None when the answer was streamed.

        What is wrong with a call is a Fault in an answer of 200. Raises NotFound and
        AuthenticationRequired for an index that is not there or may not be read.
        """
        chain = await readable_chain(self._database, self._identity, request, index)
        body = request.content.read()
        try:
            call = await self._heavy.run(parse_call, body)
            return await self._answered(call, Asked(request, index, chain))
        except Fault as error:
            document = fault(error.faultString)
        except PymirrorError as error:
            document = fault(str(error))
        return _reply(document)

    async def _answered(self, call: Call, asked: Asked) -> Reply | None:
        if call.method in ("list_packages", "list_packages_with_serial"):
            await self._send_list(asked, with_serials=call.method != "list_packages")
            return None
        method = self._methods().get(call.method)
        if method is None:
            raise Fault(FAULT_CODE, f"method {call.method[:100]!r} is not supported")
        try:
            work = method(asked, *call.arguments)
        except TypeError:
            raise Fault(FAULT_CODE, f"wrong arguments for {call.method}") from None
        return _reply(await self._heavy.run(answer, await work))

    def _methods(self) -> Mapping[str, Method]:
        return {
            "search": self._find,
            "changelog_last_serial": self._last_serial,
            "changelog_since_serial": self._changes,
            "package_releases": self._releases,
            "release_urls": self._urls,
            "release_data": self._data,
        }

    async def _send_list(self, asked: Asked, *, with_serials: bool) -> None:
        await refresh_lists(self._mirror, asked.chain)
        found = await self._lists.get(asked.chain, with_serials=with_serials)
        await send_file_at(asked.request, found.path, found.size, _HEADERS, self._database.readers)

    async def _find(self, asked: Asked, spec: Any, operator: Any = "and") -> list[dict[str, Any]]:
        if not isinstance(spec, dict) or operator not in ("and", "or"):
            raise Fault(FAULT_CODE, "search takes a struct and 'and' or 'or'")
        fields = {name: _texts(value) for name, value in spec.items()}
        # Not waited for: pip would not either, and what comes is found by the next search.
        refreshing = Deferred.fromCoroutine(refresh_lists(self._mirror, asked.chain))
        refreshing.addErrback(lambda failure: self._log.failure("cannot refresh lists", failure))
        try:
            hits = await self._search.find(
                asked.names, fields, operator=cast(Literal["and", "or"], operator), limit=MAX_HITS
            )
        except SearchOff as error:
            raise Fault(FAULT_CODE, str(error)) from None
        return _shown(hits, asked.names)

    async def _last_serial(self, asked: Asked) -> int:
        return self._position.serial

    async def _changes(self, asked: Asked, serial: Any) -> list[Any]:
        if type(serial) is not int:
            raise Fault(FAULT_CODE, "a serial is a number")
        return list(await changes_since(self._database, asked.chain, serial))

    async def _releases(self, asked: Asked, name: Any, show_hidden: Any = False) -> list[str]:
        try:
            document = await self._document(asked, name, None)
        except NotFound:
            return []
        releases = document["releases"]
        shown = [v for v, files in releases.items()
                 if show_hidden or not files or not all(f["yanked"] for f in files)]  # fmt: skip
        return shown[::-1]

    async def _urls(self, asked: Asked, name: Any, version: Any) -> list[Any]:
        try:
            urls: list[Any] = (await self._document(asked, name, version))["urls"]
        except NotFound:
            return []
        return urls

    async def _data(self, asked: Asked, name: Any, version: Any) -> dict[str, Any]:
        try:
            info: dict[str, Any] = (await self._document(asked, name, version))["info"]
        except NotFound:
            return {}
        return info

    async def _document(self, asked: Asked, name: Any, version: Any) -> dict[str, Any]:
        if not isinstance(name, str) or not isinstance(version, str | None):
            raise Fault(FAULT_CODE, "names and versions are texts")
        return await self._legacy.document(asked.request, asked.index, project_name(name), version)


def _texts(value: Any) -> list[str]:
    texts = value if isinstance(value, list) else [value]
    if not all(isinstance(text, str) for text in texts):
        raise Fault(FAULT_CODE, "what is searched for must be text")
    return texts


def _shown(hits: list[Hit], order: list[IndexName]) -> list[dict[str, Any]]:
    """Hits as devpi shows them; of a name on several indexes the nearest one alone."""
    places = {name: place for place, name in enumerate(order)}
    nearest: dict[str, Hit] = {}
    for hit in hits:
        known = nearest.setdefault(hit.project, hit)
        if places[hit.index] < places[known.index]:
            nearest[hit.project] = hit
    return [
        {
            "name": hit.name,
            "summary": f"[{hit.index}] {hit.summary}".strip(),
            "version": hit.version or UNKNOWN_VERSION,
            "_pypi_ordering": place,
        }
        for place, hit in enumerate(nearest.values())
    ]


def _reply(document: bytes) -> Reply:
    return Reply(200, document, CONTENT_TYPE, {"Cache-Control": "no-store"})
