"""PUT, PATCH and DELETE of /<user>/<index> (devpi-api §4)."""

from __future__ import annotations

import secrets as randomness
from collections.abc import Iterable, Mapping
from typing import Any, Final

import orjson
from attrs import define, evolve, frozen
from klein import Klein
from sqlalchemy import Connection

from cluster.auth.acl import Principal, Restricted, may_read, owner_of, require_configure
from cluster.durable import SecretBlobs
from cluster.errors import Conflict, Forbidden, InvalidRequest, NotFound, Unavailable
from cluster.log.changes import Change, Kind
from cluster.model import HostedIndex, Index
from cluster.names import IndexName
from cluster.state import queries
from cluster.state.database import Database
from cluster.state.options import Parsed, parse_options, patch_options, require_bases
from cluster.threads import Runner
from cluster.web.devpi.asking import json_body, json_object
from cluster.web.devpi.discovery import PRIVATE
from cluster.web.devpi.users import index_config
from cluster.web.identity import Identity
from cluster.web.replies import Reply, json_reply
from cluster.web.request import NodeRequest
from cluster.web.routes import answering, checked
from primary.bootstrap import index_set
from primary.writer import Writer, Written

SALT: Final = "salt"
"""The key, in an index's blob of secrets, of what keeps its digest from telling anything."""


@frozen
class Secrets:
    """An index's secrets, and the sha256 of the blob that holds them, None for none."""

    values: Mapping[str, str]
    blob: str | None


@define
class IndexResource:
    """Creates, changes and deletes indexes.

    `restrict_modify` are the only ones who may, if it is set.
    """

    _identity: Identity
    _database: Database
    _writer: Writer
    _blobs: SecretBlobs
    _heavy: Runner
    restrict_modify: Restricted = None

    async def create(self, request: NodeRequest, name: IndexName) -> Reply:
        """Create an index of options; raises Conflict, NotFound, Forbidden, InvalidRequest."""
        who = await self._identity.user(request)
        if who.name is not None:  # as devpi: that there is no such user comes before rights
            await self._database.read(lambda c: _require_owner(c, name))
        require_configure(who, name, restricted=self.restrict_modify)
        await self._database.read(lambda c: _require_new(c, name))
        parsed = parse_options(name, json_object(request))
        secrets = await self._keep(parsed, Secrets({}, None))
        index = evolve(parsed.index, secrets=secrets.blob)

        def decide(connection: Connection) -> list[Change]:
            _require_new(connection, name)
            _check_bases(connection, who, index, ())
            return [index_set(index)]

        written = await self._writer.write(str(who.name), decide)
        return _shown(index, f"index {name} created", parsed.notes, written)

    async def change(self, request: NodeRequest, name: IndexName) -> Reply:
        """Change options; raises NotFound, Forbidden, InvalidRequest.

        With ``?error_on_noop`` a change of nothing is refused.
        """
        who = await self._identity.user(request)
        current = await self._require_right(who, name)
        patch = json_body(request)
        before = await self._secrets(current)
        parsed = patch_options(name, current, before.values, patch)
        after = await self._keep(parsed, before)
        kept: list[Parsed] = [parsed]

        def decide(connection: Connection) -> list[Change]:
            now = queries.index_or_404(connection, name)
            if now.secrets != before.blob:
                raise Conflict(f"the secrets of {name} have changed meanwhile; try again")
            # Of the index as it is by now: another change may have come in between.
            made = patch_options(name, now, before.values, patch)
            made = evolve(made, index=evolve(made.index, secrets=after.blob))
            _check_bases(connection, who, made.index, _bases(now))
            kept[0] = made
            return [] if made.index == now else [index_set(made.index)]

        written = await self._writer.write(str(who.name), decide)
        if not written.changed and b"error_on_noop" in request.args:
            raise InvalidRequest("The requested modifications resulted in no changes")
        return _shown(kept[0].index, f"index {name} updated", kept[0].notes, written)

    async def delete(self, request: NodeRequest, name: IndexName) -> Reply:
        """Delete an index with all it holds; raises NotFound, Forbidden."""
        who = await self._identity.user(request)
        await self._require_right(who, name)

        def decide(connection: Connection) -> list[Change]:
            if not queries.index_or_404(connection, name).volatile:
                raise Forbidden(f"index {name} non-volatile, cannot delete")
            return [Change(Kind.INDEX_REMOVED, {"index": name})]

        written = await self._writer.write(str(who.name), decide)
        return json_reply({"message": f"index {name} deleted"}, 201, _headers(written))

    async def _require_right(self, who: Principal, name: IndexName) -> Index:
        """The index, which `who` may change."""
        found = await self._database.read(lambda c: queries.index(c, name))
        if found is None and who.name is not None:
            # As for one that exists and that they may not read.
            raise NotFound(f"The stage {name} could not be found.")
        require_configure(who, name, found, self.restrict_modify)
        assert found is not None  # noqa: S101 (the anonymous may change nothing)
        return found

    async def _secrets(self, index: Index) -> Secrets:
        if index.secrets is None:
            return Secrets({}, None)
        try:
            blob = await self._heavy.run(self._blobs.get, index.secrets)
        except FileNotFoundError:
            raise Unavailable(f"the secrets of {index.name} are missing on this node") from None
        values = {key: str(value) for key, value in orjson.loads(blob).items() if key != SALT}
        return Secrets(values, index.secrets)

    async def _keep(self, parsed: Parsed, before: Secrets) -> Secrets:
        """Make the secrets durable, which must come before the entry that names their blob."""
        if parsed.secrets == before.values:
            return before
        if not parsed.secrets:
            return Secrets({}, None)
        blob = orjson.dumps({**parsed.secrets, SALT: randomness.token_hex(16)})
        return Secrets(parsed.secrets, await self._heavy.run(self._blobs.add, blob))


def _require_owner(connection: Connection, name: IndexName) -> None:
    user = owner_of(name)
    if queries.user(connection, user) is None:
        raise NotFound(f"no user {user!r}")


def _require_new(connection: Connection, name: IndexName) -> None:
    _require_owner(connection, name)
    if queries.index(connection, name) is not None:
        raise Conflict(f"index {name!r} exists")


def _bases(index: Index) -> tuple[IndexName, ...]:
    return index.bases if isinstance(index, HostedIndex) else ()


def _check_bases(
    connection: Connection, who: Principal, index: Index, before: Iterable[IndexName]
) -> None:
    """Bases that are new to an index must exist for `who`, and must not lead back to it.

    One that was there before may have been deleted since, or be hidden from who changes
    something else.
    """
    known = set(before)
    new = tuple(dict.fromkeys(base for base in _bases(index) if base not in known))
    if not new or not isinstance(index, HostedIndex):
        return

    def exists(base: IndexName) -> bool:
        found = queries.index(connection, base)
        return found is not None and may_read(who, found)

    require_bases(evolve(index, bases=new), exists)
    # All bases in one walk: one walk for each, on the only thread that writes, takes minutes.
    walk = queries.chain(connection, evolve(index, bases=new))
    if any(index.name in _bases(one) for one in walk[1:]):
        names = ", ".join(map(repr, new))
        raise InvalidRequest(f"base index {names} has {index.name!r} among its own bases")


def _shown(index: Index, message: str, notes: Iterable[str], written: Written) -> Reply:
    text = "; ".join([message, *notes])
    document = {"type": "indexconfig", "result": index_config(index), "message": text}
    return json_reply(document, headers=_headers(written))


def _headers(written: Written) -> dict[str, str]:
    return {**PRIVATE, **written.headers}


def add_routes(app: Klein) -> None:
    """Register writes of /<user>/<index>; the resource is `indexes` of the application."""
    for method, handler in (("PUT", _create), ("PATCH", _change), ("DELETE", _delete)):
        for path in ("/<user>/<name>", "/<user>/<name>/"):
            app.route(path, methods=[method], strict_slashes=True)(answering(handler))


async def _create(web: Any, request: NodeRequest, user: str, name: str) -> Reply:
    indexes: IndexResource = web.indexes
    return await indexes.create(request, _new_name(user, name))


def _new_name(user: str, name: str) -> IndexName:
    try:
        return checked(user, name)
    except InvalidRequest:
        allowed = "Any ascii symbol besides -.@_ is blocked."
        message = f"indexname '{name}' contains characters that aren't allowed. {allowed}"
        raise InvalidRequest(message) from None


async def _change(web: Any, request: NodeRequest, user: str, name: str) -> Reply:
    indexes: IndexResource = web.indexes
    return await indexes.change(request, checked(user, name))


async def _delete(web: Any, request: NodeRequest, user: str, name: str) -> Reply:
    indexes: IndexResource = web.indexes
    return await indexes.delete(request, checked(user, name))
