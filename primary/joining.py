"""/+nodes: root invites nodes, sees whose keys are known, revokes; new nodes join.

An invitation is used up by the entry that gives a node its key, so it is used once whatever
crashes; the same node may repeat its request, for its answer may have been lost.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable
from typing import Any, Final
from uuid import UUID

import orjson
from attrs import define, evolve
from klein import Klein
from sqlalchemy import Connection
from twisted.internet.defer import CancelledError, Deferred

from cluster.auth.acl import ROOT
from cluster.auth.jointokens import JoinRequest, JoinToken, invitation, new_invitation
from cluster.auth.nodekeys import Admission, public_key
from cluster.clock import Clock, bounded
from cluster.errors import AuthenticationRequired, Conflict, Forbidden, InvalidRequest, NotFound
from cluster.log.changes import Change, Kind
from cluster.protocol import INVITE_PATH, JOIN_PATH, KEYS_PATH
from cluster.state import nodes
from cluster.state.database import Database
from cluster.web.identity import Identity
from cluster.web.replies import Reply, json_reply
from cluster.web.request import NodeRequest
from cluster.web.routes import answering
from cluster.web.status import LogIdentity
from primary.acks import NotReplicated
from primary.writer import Writer, Written

DEFAULT_HOURS: Final = 24
MOST_HOURS: Final = 24 * 30
REVOKED_SECONDS: Final = 5.0
"""How long a revocation waits for replicas to have it."""
_MOST_NAME: Final = 200
_PRIVATE = {"Cache-Control": "no-store"}


@define
class Joining:
    """Takes new nodes in; `private` is the key of the log's owner, `own` its uuid, `now` seconds
    since 1970.
    """

    _identity: Identity
    _database: Database
    _writer: Writer
    _admission: Admission
    _private: bytes
    _log: LogIdentity
    _secret: Callable[[], bytes]
    _own: str
    _now: Callable[[], float]
    _clock: Clock

    async def invite(self, request: NodeRequest) -> Reply:
        """Make a join token; its text is in this answer alone."""
        await self._root(request)
        hours = _object(request).get("hours", DEFAULT_HOURS)
        if type(hours) is not int or not 1 <= hours <= MOST_HOURS:
            raise InvalidRequest(f"hours is a number from 1 to {MOST_HOURS}")
        token = new_invitation(self._private, int(self._now()) + hours * 3600)
        document = {"id": token.id, "ends": token.ends, "token": token.text}
        return json_reply({"type": "invitation", "result": document}, 201, _PRIVATE)

    async def join(self, request: NodeRequest) -> Reply:
        """Give a node with a join token its key in the log, and the cluster's secret.

        Raises AuthenticationRequired for what is no token of this primary, Forbidden when it is
        over or used up or the node was revoked, Conflict when the node has another key.
        """
        said, asked = self._asked(request)
        token = self._genuine(said, asked)
        payload = {"node": asked.node, "key": asked.key, "invite": token.id}
        change = Change(Kind.NODE_KEY, payload | ({"name": asked.name} if asked.name else {}))
        written = await self._writer.write(
            "+join", lambda c: [change] if _is_new(c, asked, token) else []
        )
        await self._admission.reload()
        sealed = asked.seal(token, self._log.log, self._log.key, self._secret())
        document = {"log": self._log.log, "key": self._log.key, "sealed": sealed}
        return json_reply(document, headers={**_PRIVATE, **written.headers})

    async def list(self, request: NodeRequest) -> Reply:
        """All nodes that have a key or were revoked."""
        await self._root(request)
        known = await self._database.read(nodes.known)
        result = [
            {
                "node": one.uuid, "name": one.name, "key": one.key, "invite": one.invite,
                "revoked": one.revoked, "serial": one.serial,
            }
            for one in known.values()
        ]  # fmt: skip
        return json_reply({"type": "nodelist", "result": result}, headers=_PRIVATE)

    async def revoke(self, request: NodeRequest, node: str) -> Reply:
        """Admit a node no more, whether it has a key or not; final for its uuid.

        It holds here at once, so the answer does not depend on how many replicas there are; but
        202 says that the loss of this primary could undo it.
        """
        who = await self._root(request)
        uuid = _uuid(node)
        if uuid == self._own:
            raise Conflict("that is this primary itself")
        written = await self._writer.write(who, lambda c: _revocation(c, uuid), confirmed=False)
        await self._admission.reload()
        message = f"node {uuid} {'revoked' if written.changed else 'was revoked before'}"
        safe = await self._is_replicated(written)
        if not safe:
            message += (
                "; that holds already, but fewer replicas have recorded it than --sync-replicas "
                "asks for: should this primary be lost before they do, revoke the node again"
            )
        code = 200 if safe else 202
        return json_reply({"message": message}, code, {**_PRIVATE, **written.headers})

    async def _is_replicated(self, written: Written) -> bool:
        """Whether as many replicas as a write needs have this one soon; raises Unavailable when
        fenced meanwhile.
        """

        async def confirmed() -> bool:
            if self._writer.confirm is not None:
                # Again it changes nothing, and files have nothing to do with it then either.
                await self._writer.confirm(ROOT, evolve(written, with_files=False), None)
            return True

        try:
            work = Deferred.fromCoroutine(confirmed())
            return await bounded(work, REVOKED_SECONDS, self._clock)
        except (NotReplicated, CancelledError):
            return False
        finally:
            self._writer.guard()

    async def _root(self, request: NodeRequest) -> str:
        who = await self._identity.user(request)
        if who.name is None:
            raise AuthenticationRequired("only root manages nodes: send user and password")
        if who.name != ROOT or who.token is not None:
            raise Forbidden("only root manages nodes, by password or login")
        return ROOT

    def _asked(self, request: NodeRequest) -> tuple[dict[str, Any], JoinRequest]:
        said = _object(request)
        texts = [said.get(key, "") for key in ("node", "key", "name", "nonce")]
        if not all(isinstance(text, str) and len(text) <= _MOST_NAME for text in texts):
            raise InvalidRequest("join takes node, key, name, nonce, invite, ends and proof")
        node, key, name, nonce = texts
        public_key(key)
        if len(nonce) < 16:
            raise InvalidRequest("a nonce has 16 characters or more")
        return said, JoinRequest(_uuid(node), key, name, nonce)

    def _genuine(self, said: dict[str, Any], asked: JoinRequest) -> JoinToken:
        ends = said.get("ends")
        token = invitation(self._private, str(said.get("invite")), ends if type(ends) is int else 0)
        proof = str(said.get("proof")).encode("utf-8", "replace")
        if not hmac.compare_digest(proof, asked.proof(token).encode()):
            raise AuthenticationRequired("this primary has not made that join token")
        if self._now() >= token.ends:
            raise Forbidden("the join token has expired: have a new one made")
        return token


def _is_new(connection: Connection, asked: JoinRequest, token: JoinToken) -> bool:
    known = nodes.known(connection)
    before = known.get(asked.node)
    if before is not None and before.revoked:
        raise Forbidden(
            f"node {asked.node} was revoked: to join again, remove 'uuid' and 'node-key' from its "
            "state folder"
        )
    if before is not None and before.key == asked.key and before.invite == token.id:
        return False
    if any(one.invite == token.id for one in known.values()):
        raise Forbidden("the join token has been used: have a new one made")
    if before is not None and before.key is not None and before.key != asked.key:
        raise Conflict(f"node {asked.node} has another key already: revoke it first")
    return True


def _revocation(connection: Connection, node: str) -> list[Change]:
    before = nodes.known(connection).get(node)
    if before is not None and before.revoked:
        return []
    return [Change(Kind.NODE_REVOKED, {"node": node})]


def _uuid(text: str) -> str:
    try:
        if str(UUID(text)) == text:
            return text
    except ValueError:
        pass
    raise NotFound(f"{text!r} is not the uuid of a node")


def _object(request: NodeRequest) -> dict[str, Any]:
    try:
        value = orjson.loads(request.content.read() or b"{}")
    except orjson.JSONDecodeError:
        value = None
    if not isinstance(value, dict):
        raise InvalidRequest("the body is not a JSON object")
    return value


def add_routes(app: Klein) -> None:
    """Register them; the resource is `joining` of the application."""
    for path, methods, handler in (
        (INVITE_PATH, ["POST"], _invite),
        (JOIN_PATH, ["POST"], _join),
        (KEYS_PATH, ["GET", "HEAD"], _list),
        (f"{KEYS_PATH}/<node>", ["DELETE"], _revoke),
    ):
        app.route(path, methods=methods, strict_slashes=True)(answering(handler))


async def _invite(web: Any, request: NodeRequest) -> Reply:
    joining: Joining = web.joining
    return await joining.invite(request)


async def _join(web: Any, request: NodeRequest) -> Reply:
    joining: Joining = web.joining
    return await joining.join(request)


async def _list(web: Any, request: NodeRequest) -> Reply:
    joining: Joining = web.joining
    return await joining.list(request)


async def _revoke(web: Any, request: NodeRequest, node: str) -> Reply:
    joining: Joining = web.joining
    return await joining.revoke(request, node)
