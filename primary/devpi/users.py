"""PUT, PATCH and DELETE of /<user> (devpi-api §3)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Final

from attrs import define, evolve, frozen
from klein import Klein
from sqlalchemy import Connection

from cluster.auth.acl import (
    ROOT,
    Principal,
    Restricted,
    require_password_change,
    require_root,
    require_user_change,
    require_user_creation,
)
from cluster.auth.passwords import from_devpi, hash_password
from cluster.auth.tokens import TOKEN_USER
from cluster.durable import SecretBlobs
from cluster.errors import (
    AuthenticationRequired,
    Conflict,
    Forbidden,
    InvalidRequest,
    NotFound,
    TooManyRequests,
)
from cluster.log.changes import Change, Kind
from cluster.model import User
from cluster.names import index_name
from cluster.state import queries
from cluster.state.database import Database
from cluster.state.optionvalues import json_value
from cluster.threads import Runner
from cluster.web.devpi.asking import json_object
from cluster.web.devpi.discovery import PRIVATE, proxy_auth
from cluster.web.devpi.users import user_config
from cluster.web.identity import Identity
from cluster.web.replies import Reply, json_reply
from cluster.web.request import NodeRequest
from cluster.web.routes import answering
from primary.writer import Writer

NOBODY: Final = "+anonymous"
"""The actor of what somebody unknown did; no user can have this name."""

_SHOWN: Final = ("custom_data", "description", "email", "title")
_HIDDEN: Final = ("password", "pwhash", "pwsalt")
# A client that sends back what it got sends these too.
_IGNORED: Final = ("indexes", "username", "created", "modified")


@frozen
class Wish:
    """What a request says of a user.

    `options` that are empty are to go. `password` is the new one, in clear; `stored` a hash that
    is to be kept as it is; both are None when the password stays.
    """

    options: Mapping[str, Any]
    password: str | None = None
    stored: str | None = None

    @property
    def changes_password(self) -> bool:
        """Whether the user's password is to be another one."""
        return self.password is not None or self.stored is not None


@define
class UserResource:
    """Creates, changes and deletes users.

    `restrict_modify` are the only ones who may, beside those who change their own password.
    """

    _identity: Identity
    _database: Database
    _writer: Writer
    _blobs: SecretBlobs
    _heavy: Runner
    _now: Callable[[], datetime]
    restrict_modify: Restricted = None

    async def create(self, request: NodeRequest, name: str) -> Reply:
        """Create a user; raises Conflict if there is one, InvalidRequest, Forbidden."""
        who = await self._identity.user(request)
        require_user_creation(who, self.restrict_modify)
        given = json_object(request)
        await self._database.read(lambda c: _require_new(c, name))
        _check_name(name)
        _refuse_unknown(given)
        wish = wish_of(given)
        if not wish.changes_password:
            raise InvalidRequest("password needs to be set")
        _require_right_to_hash(who, wish)
        options = {key: value for key, value in wish.options.items() if value}
        options["created"] = self._moment()
        user = User(name, await self._keep(wish), options)

        def decide(connection: Connection) -> list[Change]:
            _require_new(connection, name)
            return [user_set(user)]

        written = await self._writer.write(who.name or NOBODY, decide)
        document = {"type": "userconfig", "result": user_config(user, ())}
        return json_reply(document, 201, {**PRIVATE, **written.headers})

    async def change(self, request: NodeRequest, name: str) -> Reply:
        """Change what a request names; raises NotFound, InvalidRequest, Forbidden.

        With a new password, which ends all logins, the answer is a new login.
        """
        who = await self._identity.user(request)
        known = await self._database.read(lambda c: queries.user(c, name))
        wish = wish_of(json_object(request))
        self._require_change(who, name, known, wish)
        password = await self._keep(wish) if wish.changes_password else None
        moment = self._moment()

        def decide(connection: Connection) -> list[Change]:
            current = queries.user(connection, name)
            if current is None:
                raise _unknown(name)
            wanted = patched(current, wish, password, moment)
            return [] if wanted == current else [user_set(wanted)]

        written = await self._writer.write(str(who.name), decide)
        document: dict[str, Any] = {"message": "user updated"}
        if wish.password is not None:
            document |= await self._login(request, name, wish.password)
        return json_reply(document, headers={**PRIVATE, **written.headers})

    async def delete(self, request: NodeRequest, name: str) -> Reply:
        """Delete a user with all indexes; raises NotFound, Forbidden."""
        who = await self._identity.user(request)
        require_user_change(who, name, self.restrict_modify)
        if name == ROOT:
            raise Forbidden("the user root cannot be deleted")
        written = await self._writer.write(str(who.name), lambda c: _removal(c, name))
        message = {"message": f"user {name!r} deleted"}
        return json_reply(message, headers={**PRIVATE, **written.headers})

    def _require_change(self, who: Principal, name: str, known: User | None, wish: Wish) -> None:
        is_password_alone = (
            known is not None
            and wish.changes_password
            and _merged(known.options, wish.options) == known.options
        )
        require = require_password_change if is_password_alone else require_user_change
        require(who, name, self.restrict_modify)
        _require_right_to_hash(who, wish)
        if known is None:
            raise _unknown(name)

    async def _keep(self, wish: Wish) -> str | None:
        """Store the hash of the wished password durably; the blob's name, None if it is empty."""
        if wish.password == "" and wish.stored is None:
            return None
        return await self._heavy.run(self._hash_and_store, wish)

    def _hash_and_store(self, wish: Wish) -> str:
        text = wish.stored if wish.password is None else hash_password(wish.password)
        return self._blobs.add(str(text).encode())

    async def _login(self, request: NodeRequest, name: str, password: str) -> dict[str, Any]:
        try:
            token = await self._identity.login(request, name, password)
        except (AuthenticationRequired, TooManyRequests):
            return {}  # an empty password does not count from where this client is
        message = "user updated, new proxy auth"
        return {"type": "userpassword", "result": proxy_auth(token), "message": message}

    def _moment(self) -> str:
        return self._now().astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def wish_of(given: Mapping[str, Any]) -> Wish:
    """Read the JSON body of a PUT or PATCH; what devpi does not know is left out.

    A hash counts more than a password. Raises InvalidRequest.
    """
    options = {key: json_value(key, given[key]) for key in _SHOWN if key in given}
    password, pwhash, pwsalt = (given.get(key) for key in _HIDDEN)
    for value in (password, pwhash, pwsalt):
        if not isinstance(value, str | None):
            raise InvalidRequest("a password and its hash must be texts")
    if not pwhash:
        return Wish(options, password=password)
    try:
        return Wish(options, stored=from_devpi(pwhash, pwsalt))
    except ValueError as error:
        raise InvalidRequest(f"pwhash: {error}") from None


def patched(user: User, wish: Wish, password: str | None, moment: str) -> User:
    """The user as wished; `password` is the new blob's name, `moment` when this happens."""
    wanted = evolve(user, options=_merged(user.options, wish.options))
    if wish.changes_password:
        wanted = evolve(wanted, password=password)
    if wanted == user:
        return user
    return evolve(wanted, options={**wanted.options, "modified": moment})


def user_set(user: User) -> Change:
    """The change that creates a user or sets all that is known of one."""
    named = {"password": user.password} if user.password else {}
    return Change(Kind.USER_SET, {"user": user.name, "options": dict(user.options), **named})


def _merged(options: Mapping[str, Any], wished: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in {**options, **wished}.items() if value}


def _refuse_unknown(given: Mapping[str, Any]) -> None:
    unknown = sorted(given.keys() - {*_SHOWN, *_HIDDEN, *_IGNORED})
    if unknown:
        raise InvalidRequest(f"Unknown keys in user config: {', '.join(unknown)}")


def _check_name(name: str) -> None:
    try:
        index_name(name, "index")
    except InvalidRequest as error:
        allowed = "Any ascii symbol besides -.@_ is blocked."
        message = f"username '{name}' contains characters that aren't allowed. {allowed}"
        raise InvalidRequest(message) from error
    if name == TOKEN_USER:
        raise InvalidRequest(f"username '{name}' stands for API tokens")


def _require_right_to_hash(who: Principal, wish: Wish) -> None:
    # A hash that somebody else has made up may be one that takes a minute to check.
    if wish.stored is not None:
        require_root(who, "setting the hash of a password")


def _require_new(connection: Connection, name: str) -> None:
    if queries.user(connection, name) is not None:
        raise Conflict("user already exists")


def _removal(connection: Connection, name: str) -> list[Change]:
    if queries.user(connection, name) is None:
        raise _unknown(name)
    indexes = queries.indexes_of(connection, name)
    for index in indexes:
        if not index.volatile:
            raise Forbidden(f"user {name!r} has non-volatile index: {index.name.partition('/')[2]}")
    removed = [Change(Kind.INDEX_REMOVED, {"index": index.name}) for index in indexes]
    return [*removed, Change(Kind.USER_REMOVED, {"user": name})]


def _unknown(name: str) -> NotFound:
    return NotFound(f"no user {name!r}")


def add_routes(app: Klein) -> None:
    """Register writes of /<user>; the resource is `users` of the application."""
    for method, handler in (("PUT", _create), ("PATCH", _change), ("DELETE", _delete)):
        for path in ("/<user>", "/<user>/"):
            app.route(path, methods=[method], strict_slashes=True)(answering(handler))


async def _create(web: Any, request: NodeRequest, user: str) -> Reply:
    users: UserResource = web.users
    return await users.create(request, user)


async def _change(web: Any, request: NodeRequest, user: str) -> Reply:
    users: UserResource = web.users
    return await users.change(request, user)


async def _delete(web: Any, request: NodeRequest, user: str) -> Reply:
    users: UserResource = web.users
    return await users.delete(request, user)
