"""/+tokens: API tokens are made, listed and revoked here, by a password or a login token.

An API token cannot do any of it: who steals one must not get another, or a longer life, for it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import orjson
from attrs import define
from klein import Klein
from sqlalchemy import Connection

from cluster.auth.acl import ROOT
from cluster.auth.tokens import ApiToken, from_request, mint, rfc3339
from cluster.auth.tokenuse import TokenUses
from cluster.errors import AuthenticationRequired, Conflict, Forbidden, InvalidRequest, NotFound
from cluster.log.changes import Change, Kind
from cluster.state import queries
from cluster.state.database import Database
from cluster.web.identity import Identity
from cluster.web.paths import TOKENS_PATH
from cluster.web.replies import Reply, json_reply
from cluster.web.request import NodeRequest
from cluster.web.routes import answering
from primary.writer import Writer

MOST_TOKENS: Final = 1_000
"""How many tokens a user may have whose time is not over."""

_KEEP_SECONDS = 86_400.0
_REMOVED_AT_ONCE = 50
_PRIVATE = {"Cache-Control": "no-store"}


@define
class TokenResource:
    """Makes, lists and revokes API tokens; `now` is seconds since 1970."""

    _identity: Identity
    _database: Database
    _writer: Writer
    _uses: TokenUses
    _now: Callable[[], float]

    async def create(self, request: NodeRequest) -> Reply:
        """Make a token for oneself, or as root for another; its text is in this answer alone."""
        who = await self._person(request)
        wanted = from_request(_json(request))
        owner = wanted.user or who
        if who not in (owner, ROOT):
            raise Forbidden(f"{who} may not make tokens for {owner}")
        now = self._now()
        text, token = mint(owner, wanted.limits, wanted.description, wanted.seconds, now)
        written = await self._writer.write(who, lambda c: token_changes(c, token, now))
        document = {"id": token.id, **token.to_json(), "token": text}
        return json_reply(
            {"type": "token", "result": document, "message": f"token {token.id} created"},
            201,
            {**_PRIVATE, **written.headers},
        )

    async def list(self, request: NodeRequest) -> Reply:
        """One's own tokens; for root all, or those of ``?user=``."""
        who = await self._person(request)
        asked = _first(request, b"user")
        if who != ROOT and asked not in (None, who):
            raise Forbidden(f"{who} may not list the tokens of {asked}")
        owner = asked if who == ROOT else who
        tokens = await self._database.read(lambda c: tokens_of(c, owner))
        last, now = await self._uses.last(), self._now()
        result = [_shown(token, last.get(token.id), now) for token in tokens]
        return json_reply({"type": "tokenlist", "result": result}, headers=_PRIVATE)

    async def revoke(self, request: NodeRequest, token: str) -> Reply:
        """Revoke one's own token, or as root anybody's; raises NotFound for others."""
        who = await self._person(request)
        written = await self._writer.write(who, lambda c: _removal(c, who, token))
        await self._uses.forget(token)
        return json_reply(
            {"message": f"token {token} revoked"},
            headers={**_PRIVATE, **written.headers},
        )

    async def _person(self, request: NodeRequest) -> str:
        who = await self._identity.user(request)
        if who.name is None:
            raise AuthenticationRequired("tokens are for users: send a user and a password")
        if who.token is not None:
            raise Forbidden("API tokens cannot manage API tokens: use a password or log in")
        return who.name


def tokens_of(connection: Connection, user: str | None) -> list[ApiToken]:
    """A user's tokens, or all, oldest first."""
    return [ApiToken.from_payload(one) for one in queries.tokens_of(connection, user)]


def token_changes(connection: Connection, token: ApiToken, now: float) -> list[Change]:
    """Record a new token, and that its owner's tokens which ended long ago are no more.

    Raises NotFound when the owner is not a user, Conflict for too many tokens.
    """
    if queries.user(connection, token.user) is None:
        raise NotFound(f"no user {token.user!r}")
    others = tokens_of(connection, token.user)
    if sum(not other.expired(now) for other in others) >= MOST_TOKENS:
        raise Conflict(f"{token.user} has {MOST_TOKENS} tokens already: revoke some")
    over = [other for other in others if other.expired(now - _KEEP_SECONDS)]
    removals = [_removed(other.id) for other in over[:_REMOVED_AT_ONCE]]
    return [*removals, Change(Kind.TOKEN_ADDED, token.to_payload())]


def _removal(connection: Connection, who: str, token: str) -> list[Change]:
    found = queries.token(connection, token)
    if found is None or who not in (found["user"], ROOT):
        raise NotFound(f"no token {token!r} of {who}")
    return [_removed(token)]


def _removed(token: str) -> Change:
    return Change(Kind.TOKEN_REMOVED, {"token": token})


def _shown(token: ApiToken, last: float | None, now: float) -> dict[str, Any]:
    return {
        "id": token.id,
        **token.to_json(),
        "expired": token.expired(now),
        "last_used": None if last is None else rfc3339(last),
    }


def _json(request: NodeRequest) -> object:
    try:
        return orjson.loads(request.content.read() or b"{}")
    except orjson.JSONDecodeError:
        raise InvalidRequest("the body is not JSON") from None


def _first(request: NodeRequest, name: bytes) -> str | None:
    values = request.args.get(name)
    return values[0].decode("utf-8", "replace") if values else None


def add_routes(app: Klein) -> None:
    """Register /+tokens; the resource is `tokens` of the application."""
    for path, methods, handler in (
        (TOKENS_PATH, ["POST"], _create),
        (TOKENS_PATH, ["GET", "HEAD"], _list),
        (f"{TOKENS_PATH}/<token>", ["DELETE"], _revoke),
    ):
        app.route(path, methods=methods, strict_slashes=True)(answering(handler))


async def _create(web: Any, request: NodeRequest) -> Reply:
    tokens: TokenResource = web.tokens
    return await tokens.create(request)


async def _list(web: Any, request: NodeRequest) -> Reply:
    tokens: TokenResource = web.tokens
    return await tokens.list(request)


async def _revoke(web: Any, request: NodeRequest, token: str) -> Reply:
    tokens: TokenResource = web.tokens
    return await tokens.revoke(request, token)
