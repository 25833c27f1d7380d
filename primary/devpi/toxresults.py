"""POST to a release file's URL: the result of a test run of it (devpi-api §8).

Order: headers checked → body streamed to disk while hashed → it is JSON → durable in the store →
entry committed → answer. The body is kept byte for byte and served like any file.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import orjson
from attrs import define
from klein import Klein
from sqlalchemy import Connection

from cluster.auth.acl import Principal, require_toxresult
from cluster.errors import Gone, InvalidRequest, NotFound, PymirrorError, TooLarge
from cluster.files.sink import Digests, HashingSink
from cluster.files.store import FileStore
from cluster.log.changes import Change, Kind
from cluster.model import Index
from cluster.names import NormalizedName, is_filename
from cluster.state import contents, links, queries
from cluster.state.database import Database
from cluster.state.links import LocatedFile
from cluster.threads import Runner
from cluster.web.body import RequestStream
from cluster.web.devpi.links import toxresult_path
from cluster.web.identity import Identity
from cluster.web.replies import Reply, json_reply
from cluster.web.request import NodeRequest, StreamHandler
from cluster.web.routes import answering
from cluster.web.toxtarget import FileLink, is_toxresult, tested_link
from primary.writer import Writer

MAX_RESULT_BYTES: Final = 50 << 20
_ANONYMOUS: Final = ":anonymous:"


@define
class ToxResults:
    """Takes the results of tests."""

    _identity: Identity
    _database: Database
    _writer: Writer
    _store: FileStore
    _readers: Runner
    _now: Callable[[], datetime]

    def stream_handler(self, request: NodeRequest) -> StreamHandler | None:
        """`take` for every POST to a file that has a body."""
        return self.take if is_toxresult(request) else None

    async def take(self, request: NodeRequest, stream: RequestStream) -> Reply:
        """Take one result; raises NotFound, AuthenticationRequired, Forbidden, InvalidRequest."""
        tested = tested_link(request)
        if stream.length is not None and stream.length > MAX_RESULT_BYTES:
            raise _too_large()
        try:
            who = await self._identity.user(request)
            await self._database.read(lambda c: tested_file(c, who, tested))
        except PymirrorError:
            # Read to its end, so that the client reads our answer and not a broken connection.
            await stream.discard(MAX_RESULT_BYTES)
            raise
        digests = await self._keep(stream)
        names: list[str] = []

        def decide(connection: Connection) -> list[Change]:
            located = tested_file(connection, who, tested)
            change, name = _added(connection, who, located, digests, self._now())
            names.append(name)
            return [change]

        written = await self._writer.write(who.name or _ANONYMOUS, decide, tested.index)
        path = f"{quote(tested.index)}/{toxresult_path(tested.link, names[-1])}"
        return json_reply(
            {"type": "toxresultpath", "result": f"{path}#sha256={digests.sha256}"},
            headers=written.headers,
        )

    async def _keep(self, stream: RequestStream) -> Digests:
        sink = self._store.new_sink()
        body = _Body(sink, stream)
        sink.attach(stream)
        try:
            try:
                await stream.deliver(body)
            finally:
                body.check()
            await sink.finish()
            await self._readers.run(_check_json, sink.path)
            return await self._store.add(sink)
        finally:
            await sink.abort()


@define(eq=False)
class _Body:
    """Passes a body on to a sink, as long as it is not too large."""

    _sink: HashingSink
    _stream: RequestStream
    _taken: int = 0
    _error: PymirrorError | None = None

    def write(self, data: bytes) -> None:
        """Take bytes of the body; after an error the rest is dropped."""
        if self._error is not None:
            return
        self._taken += len(data)
        try:
            if self._taken > MAX_RESULT_BYTES:
                raise _too_large()
            self._sink.write(data)
        except PymirrorError as error:
            self._error = error
            self._stream.abandon()

    def check(self) -> None:
        """Raise what was wrong."""
        if self._error is not None:
            raise self._error


def _too_large() -> TooLarge:
    return TooLarge(f"the result of a test has at most {MAX_RESULT_BYTES} bytes")


def _check_json(path: Path) -> None:
    try:
        orjson.loads(path.read_bytes())
    except orjson.JSONDecodeError:
        raise InvalidRequest("Bad request: could not decode json") from None


def own_file(connection: Connection, index: Index, link: FileLink) -> LocatedFile:
    """The file behind a link on the index itself, not on its bases; raises NotFound, Gone."""
    return links.file_by_link(
        connection, index, link.kind, link.link, link.filename, lambda one: one.name == index.name
    )


def tested_file(connection: Connection, who: Principal, link: FileLink) -> LocatedFile:
    """The release file that was tested, if this user may upload a result of it.

    Raises NotFound, AuthenticationRequired, Forbidden.
    """
    index = queries.index_or_404(connection, link.index)
    located: LocatedFile | None = None
    # Who may not upload is told that, and not whether there is a file.
    with suppress(NotFound, Gone):
        located = own_file(connection, index, link)
    project = NormalizedName("") if located is None else located.project
    require_toxresult(who, index, project)
    if located is None or not is_release_file(connection, located):
        raise NotFound(f"no release file found at {link.path}")
    return located


def is_release_file(connection: Connection, located: LocatedFile) -> bool:
    """Whether a link leads to a distribution file, not to a documentation zip or a test result."""
    name, project = located.index.name, located.project
    return queries.file_by_name(connection, name, project, located.file.filename) is not None


def _added(
    connection: Connection, who: Principal, located: LocatedFile, digests: Digests, now: datetime
) -> tuple[Change, str]:
    moment, index = now.astimezone(UTC), located.index.name
    tested = located.file.filename
    where = index, located.project
    known = [one.result for one in contents.toxresults_of(connection, where, tested)]
    number = len(known)
    while (name := f"{tested}.toxresult-{moment:%Y%m%d%H%M%S}-{number}") in known:
        number += 1
    if not is_filename(name):
        raise InvalidRequest(f"the name of {tested} is too long to get a test result beside it")
    when = list(moment.timetuple()[:6])
    payload = {
        "index": index,
        "project": located.project,
        "filename": tested,
        "result": {"filename": name, "sha256": digests.sha256, "size": digests.size},
        "log": [{"what": "upload", "who": who.name, "when": when, "dst": index}],
    }
    return Change(Kind.TOXRESULT_ADDED, payload), name


def add_routes(app: Klein) -> None:
    """Register what has no body; those that have one come in as streams."""
    path = "/<user>/<name>/<any('+f', '+e'):kind>/<head>/<rest>/<filename>"
    app.route(path, methods=["POST"], strict_slashes=True)(answering(_without_body))


async def _without_body(web: Any, request: NodeRequest, **parts: str) -> Reply:
    raise InvalidRequest("Bad request: could not decode json")
