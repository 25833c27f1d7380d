"""PUT /+import/…: what `pymirror import` sends. For root alone.

The checks of uploads do not apply: what devpi had must come over, eggs and odd names included.
Bytes come first (``/+import/bytes``), then the change that names them; a crash in between leaves
bytes that nobody asks for. Things come many at a time (``/+import/things``: ``{"things": [{"what",
…}]}``), so that they share one commit. The answer has for each ``{"outcome", …}``: ``imported``
or ``there`` with ``notes`` and ``problems`` (what of it could not be taken), ``wanted`` (send the
bytes, then ask again), or ``refused`` with a ``message``.
"""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final

import orjson
from attrs import define, evolve, field
from klein import Klein
from sqlalchemy import Connection
from twisted.internet.defer import Deferred

from cluster.auth.acl import require_root
from cluster.auth.passwords import LOCKED, from_devpi, matches
from cluster.durable import SecretBlobs
from cluster.errors import InvalidRequest, NotFound, PymirrorError, TooLarge
from cluster.files.sink import HashingSink
from cluster.files.store import FileStore
from cluster.importing.options import take_options
from cluster.log.changes import Change
from cluster.model import User
from cluster.names import index_name, project_name
from cluster.threads import Runner
from cluster.web.body import RequestStream
from cluster.web.identity import Identity
from cluster.web.replies import Reply, json_reply
from cluster.web.request import NodeRequest, StreamHandler
from cluster.web.routes import answering
from primary.devpi.importchanges import add_file, register, set_index, set_release, set_user
from primary.devpi.importfiles import Body, arrival_of, index_of, text
from primary.upload import MAX_UPLOAD_BYTES
from primary.writer import Writer

IMPORT_PATH: Final = "/+import"
MAX_JSON_BYTES: Final = 64 << 20
"""Of things that come together, READMEs included."""

_NOT_THE_THING: Final = 500


@define
class ImportResource:
    """Takes the users, indexes, releases and files of another server."""

    _identity: Identity
    _writer: Writer
    _store: FileStore
    _blobs: SecretBlobs
    _heavy: Runner

    def stream_handler(self, request: NodeRequest) -> StreamHandler | None:
        """`take` for everything below /+import that has a body."""
        mine = request.method == b"PUT" and request.path.startswith(f"{IMPORT_PATH}/".encode())
        return self.take if mine else None

    async def take(self, request: NodeRequest, stream: RequestStream) -> Reply:
        """Take bytes, or a list of things; raises what is wrong with the request as a whole."""
        who = await self._identity.user(request)
        require_root(who, "importing")
        what = request.path.decode("ascii", "replace").removeprefix(f"{IMPORT_PATH}/")
        if what == "bytes":
            return _reply(await self._bytes(request, stream))
        if what != "things":
            raise NotFound(f"importing takes bytes and things, not {what!r}")
        things = (await _json(stream)).get("things")
        if not isinstance(things, list) or not all(isinstance(one, dict) for one in things):
            raise InvalidRequest("things is not a list of JSON objects")
        # All at once: the writer commits together what comes together.
        taken = [Deferred.fromCoroutine(self._one(str(who.name), thing)) for thing in things]
        results = [await one for one in taken]
        for failed in (result for result in results if isinstance(result, Exception)):
            raise failed
        return _reply(results)

    async def _one(self, actor: str, thing: Body) -> dict[str, Any] | Exception:
        takers: Mapping[object, Callable[[str, Body], Awaitable[dict[str, Any]]]] = {
            "user": self._user, "index": self._index, "project": self._project,
            "release": self._release, "file": self._file,
        }  # fmt: skip
        try:
            what = text(thing, "what")
            if what not in takers:
                raise InvalidRequest(f"nothing of kind {what!r} can be imported")
            return await takers[what](actor, thing)
        except Exception as error:
            if isinstance(error, PymirrorError) and error.status < _NOT_THE_THING:
                return {"outcome": "refused", "message": str(error)}
            return error

    async def take_empty(self, request: NodeRequest, what: str) -> Reply:
        """A request without a body: the bytes of an empty file, or a mistake."""
        require_root(await self._identity.user(request), "importing")
        if what != "bytes":
            raise InvalidRequest("send what is to be imported as JSON")
        digests = await self._store.add_bytes(b"")
        if digests.sha256 != _wanted(request):
            raise InvalidRequest("send the file's bytes as the body")
        return _reply({"outcome": "imported"})

    async def _bytes(self, request: NodeRequest, stream: RequestStream) -> dict[str, Any]:
        wanted = _wanted(request)
        if await self._store.size_of(wanted) is not None:
            # Until its entry is there it must not go with the cache.
            self._store.claim(wanted)
            return {"outcome": "there"}
        if (stream.length or 0) > MAX_UPLOAD_BYTES:
            raise TooLarge(f"files have at most {MAX_UPLOAD_BYTES} bytes")
        sink = self._store.new_sink()
        sink.attach(stream)
        try:
            await stream.deliver(_Body(sink, stream))
            digests = await sink.finish()
            if digests.sha256 != wanted:
                raise InvalidRequest("the file's bytes do not have the sha256 that was stated")
            await self._store.add(sink)
        finally:
            await sink.abort()
        return {"outcome": "imported"}

    async def _user(self, actor: str, body: Body) -> dict[str, Any]:
        name = text(body, "user")
        index_name(name, "any")
        try:
            stored = from_devpi(body.get("pwhash"), body.get("pwsalt"))
        except (ValueError, TypeError) as error:
            raise InvalidRequest(f"its password hash cannot be used: {error}") from None
        user, notes = User(name, None, dict(body.get("options") or {})), list[str]()
        if stored == LOCKED:
            notes.append("has no password in the dump, so cannot log in until one is set")
        if stored != LOCKED and await self._heavy.run(matches, stored, ""):
            notes.append("has an empty password, which is good from the node's own machine alone")
        else:
            user = evolve(user, password=await self._heavy.run(self._blobs.add, stored.encode()))
        return await self._write(actor, lambda c: set_user(c, user, notes), notes)

    async def _index(self, actor: str, body: Body) -> dict[str, Any]:
        name = index_of(body)
        taken = take_options(name, body.get("options") or {})
        index = taken.index
        if taken.secrets:
            blob = orjson.dumps({**taken.secrets, "salt": secrets.token_hex(16)})
            index = evolve(index, secrets=await self._heavy.run(self._blobs.add, blob))
        return await self._write(actor, lambda c: set_index(c, index), taken.notes, taken.problems)

    async def _project(self, actor: str, body: Body) -> dict[str, Any]:
        index, name = index_of(body), text(body, "name")
        project = project_name(name)
        return await self._write(actor, lambda c: register(c, index, project, name))

    async def _release(self, actor: str, body: Body) -> dict[str, Any]:
        index, name, version = index_of(body), text(body, "name"), text(body, "version")
        where, metadata = (index, project_name(name)), body.get("metadata")
        if not isinstance(metadata, dict):
            raise InvalidRequest("metadata is not a JSON object")
        return await self._write(actor, lambda c: set_release(c, where, name, version, metadata))

    async def _file(self, actor: str, body: Body) -> dict[str, Any]:
        sha256 = text(body, "sha256")
        size = await self._store.size_of(sha256)
        if size is None:
            return {"outcome": "wanted"}
        self._store.claim(sha256)
        arrival = await arrival_of(body, sha256, size, self._store, self._heavy)
        return await self._write(actor, lambda c: add_file(c, arrival))

    async def _write(
        self,
        actor: str,
        decide: Callable[[Connection], Sequence[Change]],
        notes: Sequence[str] = (),
        problems: Sequence[str] = (),
    ) -> dict[str, Any]:
        written = await self._writer.write(actor, decide)
        outcome = "imported" if written.changed else "there"
        return {"outcome": outcome, "notes": list(notes), "problems": list(problems)}


def _wanted(request: NodeRequest) -> str:
    return str(request.args.get(b"sha256", [b""])[0].decode("ascii", "replace"))


def _reply(result: object) -> Reply:
    return json_reply({"type": "import", "result": result})


@define
class _Body:
    """A body on its way into a sink; a disk that is full ends the request."""

    _sink: HashingSink
    _stream: RequestStream

    def write(self, data: bytes) -> None:
        if self._sink.error is None:
            self._sink.write(data)
        else:
            self._stream.abandon()


@define
class _Collected:
    """A body in memory, up to MAX_JSON_BYTES."""

    _stream: RequestStream
    _pieces: list[bytes] = field(factory=list)
    size: int = 0

    def write(self, data: bytes) -> None:
        self.size += len(data)
        if self.size <= MAX_JSON_BYTES:
            self._pieces.append(data)
        else:
            self._pieces.clear()

    def whole(self) -> bytes:
        if self.size > MAX_JSON_BYTES:
            raise TooLarge(f"this has {self.size} bytes; most is {MAX_JSON_BYTES}")
        return b"".join(self._pieces)


async def _json(stream: RequestStream) -> Body:
    if (stream.length or 0) > MAX_JSON_BYTES:
        raise TooLarge(f"this has {stream.length} bytes; most is {MAX_JSON_BYTES}")
    collected = _Collected(stream)
    await stream.deliver(collected)
    try:
        body = orjson.loads(collected.whole())
    except orjson.JSONDecodeError:
        raise InvalidRequest("the body is not JSON") from None
    if not isinstance(body, dict):
        raise InvalidRequest("the body is not a JSON object")
    return body


def add_routes(app: Klein) -> None:
    """Register /+import/…, of which only requests without a body get here."""
    app.route(f"{IMPORT_PATH}/<what>", methods=["PUT"], strict_slashes=True)(answering(_empty))


async def _empty(web: Any, request: NodeRequest, what: str) -> Reply:
    imports: ImportResource = web.imports
    return await imports.take_empty(request, what)
