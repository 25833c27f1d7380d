"""GET /+nearest/<path>: send a client to the best node for it; GET /+nearest: the nodes as JSON.

For pip and uv this is an index like any other, for both follow a 307 and resolve links against
where they were sent. Only addresses that a trusted front vouches for count instead of the
connection's own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final
from urllib.parse import unquote

from attrs import define, evolve
from klein import Klein

from cluster.errors import InvalidRequest, Unavailable
from cluster.nearest import Candidate, candidate, public, ranked
from cluster.networks import Networks, client_of
from cluster.protocol import NEAREST_PATH
from cluster.web.identity import client_address, forwarded_hops
from cluster.web.outside import outside_url
from cluster.web.replies import Reply, json_reply, redirect
from cluster.web.request import NodeRequest
from cluster.web.routes import answering

_NO_STORE: Final = {"Cache-Control": "no-store"}
_REGION: Final = b"region"


@define
class Nearest:
    """Chooses among the nodes that this node knows of.

    `others` gives the list of nodes and its age in seconds; `own` this node's entry as it is
    now, which takes the place of the one in the list.
    """

    _own: Callable[[], dict[str, Any]]
    _others: Callable[[], tuple[Sequence[Mapping[str, Any]], float]]
    _trusted: Networks

    def document(self, request: NodeRequest) -> Reply:
        """What clients need to choose for themselves."""
        return json_reply({"nodes": public(self._candidates(request))}, headers=_NO_STORE)

    def redirect(self, request: NodeRequest) -> Reply:
        """307 to the same path and query on the best node; raises InvalidRequest, Unavailable."""
        path, _, query = request.uri.decode("ascii").partition("?")
        rest = path.removeprefix(NEAREST_PATH)
        if any(unquote(part) == NEAREST_PATH[1:] for part in rest.split("/")):
            raise InvalidRequest(f"{NEAREST_PATH} leads to a node, not to itself")
        kept = "&".join(part for part in query.split("&") if not part.startswith("region="))
        answer = redirect(self._best(request) + rest + (f"?{kept}" if kept else ""), 307)
        return evolve(answer, headers={**answer.headers, **_NO_STORE})

    def _best(self, request: NodeRequest) -> str:
        own = self._own()
        address = client_of(client_address(request), forwarded_hops(request), self._trusted)
        asked = request.args.get(_REGION, [b""])[0].decode("ascii", "replace")
        found = ranked(self._candidates(request), address, asked or own["region"])
        if found:
            return found[0].url
        if own["ready"]:  # the primary is away, and nobody knows of anybody better
            return self._own_url(request)
        raise Unavailable("no node can take this now; try again in a few seconds")

    def _candidates(self, request: NodeRequest) -> list[Candidate]:
        own = self._own()
        nodes, age_seconds = self._others()
        others = [candidate(n, age_seconds) for n in nodes if n.get("uuid") != own["uuid"]]
        here = candidate({**own, "url": self._own_url(request)})
        return [one for one in (here, *others) if one is not None]

    def _own_url(self, request: NodeRequest) -> str:
        url: str | None = self._own()["url"]
        return outside_url(request, None) if url is None else url.rstrip("/")


def add_routes(app: Klein) -> None:
    """Register the paths; `web.nearest` is a `Nearest`."""
    methods = ["GET", "HEAD"]
    app.route(NEAREST_PATH, methods=methods, strict_slashes=True)(answering(_list))
    app.route(NEAREST_PATH + "/", methods=methods, branch=True)(answering(_redirect))


async def _list(web: Any, request: NodeRequest) -> Reply:
    nearest: Nearest = web.nearest
    return nearest.document(request)


async def _redirect(web: Any, request: NodeRequest) -> Reply:
    nearest: Nearest = web.nearest
    return nearest.redirect(request)
