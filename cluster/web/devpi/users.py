"""GET / and /<user>: users and the indexes they have (devpi-api §3)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from attrs import define
from klein import Klein
from sqlalchemy import Connection

from cluster.errors import NotFound
from cluster.model import Index, User
from cluster.state import queries
from cluster.state.database import Database
from cluster.state.options import kind_of, shown_options
from cluster.state.queries import MayRead
from cluster.web.access import reader_of
from cluster.web.devpi.asking import wants_json
from cluster.web.devpi.discovery import PRIVATE
from cluster.web.identity import Identity
from cluster.web.replies import Reply, json_reply, text_reply
from cluster.web.request import NodeRequest
from cluster.web.routes import answering


@define
class UserPages:
    """Shows users; indexes that the reader may not read are left out.

    `role` is the word for this node on the front page.
    """

    _identity: Identity
    _database: Database
    role: str

    async def all(self, request: NodeRequest) -> Reply:
        """All users, or for people a line about each index."""
        reader = await reader_of(self._identity, request)
        if not wants_json(request):
            indexes = await self._database.read(queries.indexes_of)
            return _front(self.role, filter(reader, indexes))
        users = await self._database.read(lambda c: _users(c, reader))
        return json_reply({"type": "list:userconfig", "result": users}, headers=PRIVATE)

    async def one(self, request: NodeRequest, name: str) -> Reply:
        """One user; raises NotFound."""
        reader = await reader_of(self._identity, request)
        shown = await self._database.read(lambda c: _user(c, name, reader))
        return json_reply({"type": "userconfig", "result": shown}, headers=PRIVATE)


def index_config(index: Index) -> dict[str, Any]:
    """An index as devpi-client is shown it."""
    return {"type": kind_of(index), **shown_options(index)}


def user_config(user: User, indexes: Iterable[Index]) -> dict[str, Any]:
    """A user as devpi-client is shown it: all but the password, and the indexes by name."""
    by_name = {index.name.partition("/")[2]: index_config(index) for index in indexes}
    return {**user.options, "username": user.name, "indexes": by_name}


def _user(connection: Connection, name: str, may_read: MayRead) -> dict[str, Any]:
    user = queries.user(connection, name)
    if user is None:
        raise NotFound(f"no user {name!r}")
    return user_config(user, filter(may_read, queries.indexes_of(connection, name)))


def _users(connection: Connection, may_read: MayRead) -> dict[str, Any]:
    indexes: dict[str, list[Index]] = {}
    for index in filter(may_read, queries.indexes_of(connection)):
        indexes.setdefault(index.name.partition("/")[0], []).append(index)
    users = (queries.user(connection, name) for name in queries.user_names(connection))
    return {user.name: user_config(user, indexes.get(user.name, ())) for user in users if user}


def _front(role: str, indexes: Iterable[Index]) -> Reply:
    lines = [f"pymirror {role}; status: /+status; indexes:"]
    lines += [f"  /{index.name}/+simple/" for index in indexes]
    return text_reply("\n".join(lines), headers={"Vary": "Accept"})


def add_routes(app: Klein) -> None:
    """Register / and /<user>; the resource is `user_pages` of the application."""
    for path, handler in (("/", _all), ("/<user>", _one), ("/<user>/", _one)):
        app.route(path, methods=["GET", "HEAD"], strict_slashes=True)(answering(handler))


async def _all(web: Any, request: NodeRequest) -> Reply:
    pages: UserPages = web.user_pages
    return await pages.all(request)


async def _one(web: Any, request: NodeRequest, user: str) -> Reply:
    pages: UserPages = web.user_pages
    return await pages.one(request, user)
