"""GET /+authcheck: whether a front may let a request through (devpi-api §2, as devpi-lockdown).

For nginx's `auth_request`: a front that answers from a cache or a disk of its own asks here, with
the client's credentials and the URI that the client asked for. 200 lets it pass, 401 and 403 do
not; nothing else is ever answered, for a front takes that for a failure.
"""

from __future__ import annotations

import re
from typing import Any, Final
from urllib.parse import unquote, urlsplit

from attrs import frozen
from klein import Klein
from sqlalchemy import Connection
from werkzeug.exceptions import HTTPException

from cluster.auth.acl import ANONYMOUS, Principal
from cluster.errors import AuthenticationRequired, Forbidden, PymirrorError
from cluster.model import Index
from cluster.names import IndexName, NormalizedName, index_name, normalize
from cluster.state import queries
from cluster.web.access import reader_of
from cluster.web.files import METADATA_SUFFIX
from cluster.web.paths import AUDIENCE_PATH, DISCOVERY_PATH, MINT_PATH
from cluster.web.replies import Reply, text_reply
from cluster.web.request import NodeRequest
from cluster.web.routes import answering

AUTHCHECK_PATH: Final = "/+authcheck"
URI_HEADER: Final = "X-Original-URI"
METHOD_HEADER: Final = "X-Original-Method"

_OPEN = {
    "/", "/+login", "/+logout", "/+ready", "/+status", "/+search", "/+metrics", "/+nearest",
    "/+nodes/join", AUTHCHECK_PATH, AUDIENCE_PATH, MINT_PATH, DISCOVERY_PATH,
}  # fmt: skip
_OPEN_BELOW = ("/+static", "/+theme-static", "/+nearest/")
_PUBLIC_LOG = ("/+log/checkpoint", "/+log/tile/")
_NODES = ("/+node/", "/+log/")
_READS = ("GET", "HEAD")
_HIDDEN_SEPARATOR = re.compile(r"%(?:2f|5c|[01][0-9a-f]|7f)", re.IGNORECASE)
_NO_STORE: Final = {"Cache-Control": "no-store"}


@frozen
class Asked:
    """A request that a front holds; `path` is decoded, `values` are what its route found in it."""

    method: str
    path: str
    values: dict[str, Any]

    @property
    def segments(self) -> list[str]:
        """The parts of the path."""
        return self.path.strip("/").split("/")

    @property
    def is_open(self) -> bool:
        """Whether everybody may ask: the node shows nothing there that one may not know."""
        is_discovery = self.segments[-1] == "+api" and len(self.segments) <= 3
        return self.path in _OPEN or self.path.startswith(_OPEN_BELOW) or is_discovery

    def index(self) -> IndexName | None:
        """The index that the path is below, if any; raises InvalidRequest."""
        first = self.segments[:2]
        if len(first) < 2 or any(segment.startswith("+") for segment in first):
            return None
        return index_name(*first)

    def project(self) -> NormalizedName | None:
        """The project that the path is about, if it names one."""
        name = self.values.get("name" if "index" in self.values else "project")
        return None if name is None else normalize(str(name))


def original_path(uri: str, outside: str | None) -> str:
    """The path of a URI as a node sees it, decoded; `outside` is the value of ``--outside-url``.

    Raises Forbidden for what a front and a node could understand in two ways.
    """
    try:
        is_absolute = uri.startswith(("http://", "https://"))
        path = urlsplit(uri).path if is_absolute else uri.partition("?")[0]
        decoded = unquote(path, errors="strict")
    except ValueError:
        raise Forbidden("the path is not UTF-8") from None
    # A client can send X-Outside-Url, so only what was configured can be a prefix here.
    prefix = urlsplit(outside or "").path.rstrip("/")
    if prefix and decoded.startswith(f"{prefix}/"):
        decoded = decoded.removeprefix(prefix)
    if not decoded.startswith("/") or _HIDDEN_SEPARATOR.search(path) or "\\" in decoded:
        raise Forbidden(f"{URI_HEADER} is needed, with the URI that the client asked for")
    # Behind "#" nothing is the path for some, all of it for others.
    if "//" in decoded or "#" in uri or {".", ".."} & set(decoded.split("/")):
        raise Forbidden("the path can be read in two ways")
    return decoded


def add_routes(app: Klein) -> None:
    """Register the path."""
    app.route(AUTHCHECK_PATH, methods=["GET", "HEAD"], strict_slashes=True)(answering(_check))


async def _check(web: Any, request: NodeRequest) -> Reply:
    try:
        asked = _asked(web, request)
        await _require(web, request, asked)
    except AuthenticationRequired:
        # devpi-client takes a 401 for the end of its login.
        if "devpi-client" not in (request.header("User-Agent") or ""):
            raise
        return text_reply("forbidden", 403, _NO_STORE)
    except PymirrorError:
        return text_reply("forbidden", 403, _NO_STORE)
    return text_reply("fine", 200, _NO_STORE)


def _asked(web: Any, request: NodeRequest) -> Asked:
    method = (request.header(METHOD_HEADER) or "GET").upper()
    path = original_path(request.header(URI_HEADER) or "", web.discovery.outside)
    if path.startswith(_OPEN_BELOW):
        return Asked(method, path, {})
    try:
        _, values = web.app.url_map.bind("node").match(path, method)
    except HTTPException:
        raise Forbidden("nothing is there") from None
    return Asked(method, path, dict(values))


async def _require(web: Any, request: NodeRequest, asked: Asked) -> None:
    if asked.is_open:
        return
    if web.identity.node(request) is not None:
        return
    if asked.path.startswith(_PUBLIC_LOG):
        return
    if asked.path.startswith(_NODES):
        raise Forbidden("only nodes of this cluster may ask for this")
    if asked.method in _READS:
        await _require_read(web, request, asked)
    else:
        await _require_write(web, request, asked)


async def _require_read(web: Any, request: NodeRequest, asked: Asked) -> None:
    index = asked.index()
    if index is None:
        if asked.segments[0].startswith("+"):
            _require_known(await web.identity.user(request))
        return
    if asked.values.get("kind") in ("+f", "+e"):
        await _require_file(web, request, asked, index)
        return
    found = await web.database.read(lambda c: queries.index_or_404(c, index))
    (await reader_of(web.identity, request, asked.project())).require(found)


async def _require_file(web: Any, request: NodeRequest, asked: Asked, index: IndexName) -> None:
    values = asked.values
    link, name = values["head"] + values["rest"], values["filename"]
    # Also what was removed is refused: a front may still have it.
    await web.files.locate(request, index, values["kind"], link, name.removesuffix(METADATA_SUFFIX))


async def _require_write(web: Any, request: NodeRequest, asked: Asked) -> None:
    """A write is for the node to judge; those who are nobody may try where everybody reads."""
    who: Principal = await web.identity.user(request)
    index = asked.index()
    if who.name is not None:
        return
    if index is None:
        if asked.segments[0].startswith("+"):
            _require_known(who)
        return

    def look(connection: Connection) -> Index | None:
        return queries.index(connection, index)

    found = await web.database.read(look)
    if found is None:
        _require_known(who)
    else:
        (await reader_of(web.identity, request, asked.project())).require(found)


def _require_known(who: Principal) -> None:
    if who == ANONYMOUS:
        raise AuthenticationRequired("this needs a user and a password")
