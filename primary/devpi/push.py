"""PUSH of /<user>/<index>: a release goes to another index, here or elsewhere (devpi-api §6).

Within this server it is one write, which happens whole or not at all. From a mirror the files
are fetched first. Elsewhere they are uploaded one by one; see `primary.devpi.pushexternal`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, Final

from attrs import define, frozen
from klein import Klein
from sqlalchemy import Connection
from twisted.logger import Logger

from cluster.auth.acl import require_external_push
from cluster.errors import Conflict, InvalidRequest
from cluster.log.changes import Change
from cluster.model import MirrorIndex
from cluster.names import IndexName, display_version, index_name, project_name
from cluster.singleflight import SingleFlight
from cluster.state.database import Database
from cluster.web.devpi.asking import json_object
from cluster.web.identity import Identity
from cluster.web.replies import Reply, json_reply
from cluster.web.request import NodeRequest
from cluster.web.routes import answering, checked
from primary.devpi.pushexternal import Destination, ExternalPush, is_done
from primary.devpi.pushmirrored import MirroredReleases
from primary.devpi.pushrules import (
    Action,
    InternalPush,
    Release,
    Wish,
    release_of,
    source_index,
    target_index,
)
from primary.uploadrules import Upload
from primary.writer import Writer

_ANONYMOUS: Final = ":anonymous:"
_WHAT: Final = {"name", "version", "no_docs", "only_docs"}
_ELSEWHERE: Final = {"posturl", "username", "password", "register_project"}


@frozen
class Order:
    """The body of a push; `to` is an index of this server or a place elsewhere."""

    name: str
    version: str
    to: IndexName | Destination
    files: bool
    docs: bool
    register: bool


def order_of(body: Mapping[str, Any]) -> Order:
    """Read a push's body; raises InvalidRequest."""
    is_external = "posturl" in body
    known = _WHAT | (_ELSEWHERE if is_external else {"targetindex"})
    extra = sorted(set(body) - known)
    if extra:
        raise InvalidRequest(f"a push does not take {', '.join(map(repr, extra))}")
    no_docs, only_docs = (_flag(body, key) for key in ("no_docs", "only_docs"))
    if no_docs and only_docs:
        raise InvalidRequest("can't use 'no_docs' and 'only_docs' together")
    to: IndexName | Destination
    if is_external:
        to = Destination(*(_text(body, key) for key in ("posturl", "username", "password")))
    else:
        user, slash, name = _text(body, "targetindex").partition("/")
        if not slash or "/" in name:
            raise InvalidRequest("targetindex is not of the form user/index")
        to = index_name(user, name)
    return Order(
        _text(body, "name"), _text(body, "version"), to, files=not only_docs, docs=not no_docs,
        register=_flag(body, "register_project"),
    )  # fmt: skip


def _text(body: Mapping[str, Any], key: str) -> str:
    value = body.get(key)
    if not isinstance(value, str):
        raise InvalidRequest(f"a push needs the text {key!r}")
    return value


def _flag(body: Mapping[str, Any], key: str) -> bool:
    value = body.get(key, False)
    if not isinstance(value, bool):
        raise InvalidRequest(f"{key!r} is true or false")
    return value


@define
class PushResource:
    """Pushes releases."""

    _log = Logger()

    _identity: Identity
    _database: Database
    _writer: Writer
    _mirrored: MirroredReleases
    _external: ExternalPush
    _now: Callable[[], datetime]

    async def push(self, request: NodeRequest, source: IndexName) -> Reply:
        """Push a release that `source` itself has.

        Raises InvalidRequest, NotFound, AuthenticationRequired, Forbidden, Conflict, and
        UpstreamError for a mirror's file that does not come.
        """
        who = await self._identity.user(request)
        order = order_of(json_object(request))
        wish = Wish(
            source, who, project_name(order.name), display_version(order.version),
            files=order.files, docs=order.docs,
        )  # fmt: skip
        if isinstance(order.to, Destination):
            return await self._push_elsewhere(request, wish, order.to, order.register)
        return await self._push_here(wish, order.to)

    async def _push_here(self, wish: Wish, target: IndexName) -> Reply:
        ready = await self._ready(wish, lambda c: _check_target(c, wish, target))
        actions: list[Action] = []

        def decide(connection: Connection) -> list[Change]:
            index = source_index(connection, wish)
            if ready is None and isinstance(index, MirrorIndex):
                raise Conflict(f"{wish.source} was another index a moment ago; try again")
            release = release_of(connection, wish) if ready is None else ready
            push = InternalPush(connection, Upload(target, wish.who, self._now()), release)
            changes = push.changes()
            actions[:] = push.actions
            return changes

        written = await self._writer.write(wish.who.name or _ANONYMOUS, decide, target)
        return _action_log(actions, written.headers)

    async def _push_elsewhere(
        self, request: NodeRequest, wish: Wish, to: Destination, register: bool
    ) -> Reply:
        def check(connection: Connection) -> None:
            require_external_push(wish.who, source_index(connection, wish), wish.project)

        release = await self._ready(wish, check)
        if release is None:
            release = await self._database.read(lambda c: release_of(c, wish))
        self._log.info(
            "{user} pushes {name} {version} from {index} to {host}", user=wish.who.name,
            name=release.name, version=release.version, index=wish.source, host=to.host,
        )  # fmt: skip
        # On its own: a file that is under way is sent to its end, also when the client leaves.
        sending: SingleFlight[str, list[Action]] = SingleFlight()
        actions = await sending.run(
            "", lambda: self._external.send(
                release, to, register=register, is_gone=lambda: request.lost
            ),
        )  # fmt: skip
        return _action_log(actions, {})

    async def _ready(self, wish: Wish, check: Callable[[Connection], None]) -> Release | None:
        """A mirror's release, fetched; None for a hosted index, which has its files.

        `check` is the right to do what comes afterwards: nothing is fetched without.
        """

        def look(connection: Connection) -> MirrorIndex | None:
            index = source_index(connection, wish)
            if isinstance(index, MirrorIndex):
                check(connection)
                return index
            release_of(connection, wish)
            check(connection)
            return None

        mirror = await self._database.read(look)
        return None if mirror is None else await self._mirrored.release(wish, mirror)


def _check_target(connection: Connection, wish: Wish, target: IndexName) -> None:
    target_index(connection, target, wish.who, wish.project)


def _action_log(actions: list[Action], headers: Mapping[str, str]) -> Reply:
    document = {"type": "actionlog", "result": actions}
    status = 200 if all(map(is_done, actions)) else 502
    return json_reply(document, status, {"Cache-Control": "no-store", **headers})


def add_routes(app: Klein) -> None:
    """Register what devpi-client's push calls; a POST of JSON is passed on by `PrimaryWeb`."""
    for path in ("/<user>/<name>", "/<user>/<name>/"):
        app.route(path, methods=["PUSH"], strict_slashes=True)(answering(_push))


async def _push(web: Any, request: NodeRequest, user: str, name: str) -> Reply:
    resource: PushResource = web.pushes
    return await resource.push(request, checked(user, name))
