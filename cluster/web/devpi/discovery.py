"""Where things are, who one is, and the login (devpi-api §2)."""

from __future__ import annotations

from typing import Any, Final
from urllib.parse import quote

from attrs import define
from klein import Klein

from cluster.auth.logins import LOGIN_SECONDS
from cluster.errors import InvalidRequest
from cluster.model import HostedIndex, Index
from cluster.names import IndexName
from cluster.state import queries
from cluster.state.database import Database
from cluster.web.access import reader_of
from cluster.web.devpi.asking import json_object
from cluster.web.identity import Identity
from cluster.web.outside import outside_url
from cluster.web.replies import Reply, json_reply
from cluster.web.request import NodeRequest
from cluster.web.routes import answering, checked

LOGIN_PATH: Final = "/+login"
FEATURES: Final = (
    "push-no-docs", "push-only-docs", "push-register-project", "server-keyvalue-parsing",
)  # fmt: skip
PRIVATE: Final = {"Cache-Control": "no-store"}
"""Headers of answers that depend on who asks."""


@define
class Discovery:
    """What devpi-client learns from a server before anything else.

    `outside` is the value of ``--outside-url``.
    """

    _identity: Identity
    _database: Database
    outside: str | None

    async def api(self, request: NodeRequest, name: IndexName | None = None) -> Reply:
        """The URLs of this server, or of an index; raises NotFound, AuthenticationRequired."""
        base = outside_url(request, self.outside)
        who = await self._identity.reader(request)
        status = ["noauth", "", []] if who.name is None else ["ok", who.name, []]
        result = {"login": base + LOGIN_PATH, "authstatus": status, "features": FEATURES}
        if name is not None:
            index = await self._database.read(lambda c: queries.index_or_404(c, name))
            (await reader_of(self._identity, request)).require(index)
            result |= _urls(base, index)
        return json_reply({"type": "apiconfig", "result": result}, headers=PRIVATE)

    async def login(self, request: NodeRequest) -> Reply:
        """A login token for a user and a password.

        Raises InvalidRequest, AuthenticationRequired, TooManyRequests.
        """
        given = json_object(request)
        user, password = given.get("user"), given.get("password")
        if not isinstance(user, str) or not isinstance(password, str):
            raise InvalidRequest("Bad request: no user/password specified")
        token = await self._identity.login(request, user, password)
        result = proxy_auth(token)
        message = {"type": "proxyauth", "result": result, "message": "login successful"}
        return json_reply(message, headers=PRIVATE)


def proxy_auth(token: str) -> dict[str, Any]:
    """A login token as devpi-client keeps it."""
    return {"password": token, "expiration": LOGIN_SECONDS}


def _urls(base: str, index: Index) -> dict[str, str]:
    url = f"{base}/{quote(index.name)}"
    urls = {"index": url, "simpleindex": f"{url}/+simple/"}
    return {**urls, "pypisubmit": f"{url}/"} if isinstance(index, HostedIndex) else urls


def add_routes(app: Klein) -> None:
    """Register +api and +login; the resource is `discovery` of the application."""
    for path, methods, handler in (
        ("/+api", ["GET", "HEAD"], _api),
        ("/<user>/+api", ["GET", "HEAD"], _user_api),
        ("/<user>/<name>/+api", ["GET", "HEAD"], _index_api),
        (LOGIN_PATH, ["POST"], _login),
    ):
        app.route(path, methods=methods, strict_slashes=True)(answering(handler))


async def _api(web: Any, request: NodeRequest) -> Reply:
    discovery: Discovery = web.discovery
    return await discovery.api(request)


async def _user_api(web: Any, request: NodeRequest, user: str) -> Reply:
    return await _api(web, request)


async def _index_api(web: Any, request: NodeRequest, user: str, name: str) -> Reply:
    discovery: Discovery = web.discovery
    return await discovery.api(request, checked(user, name))


async def _login(web: Any, request: NodeRequest) -> Reply:
    discovery: Discovery = web.discovery
    return await discovery.login(request)
