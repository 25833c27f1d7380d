"""The routes that both kinds of node have, and how a handler's result becomes an answer."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import wraps
from typing import Any

from attrs import define
from klein import Klein
from twisted.internet.defer import CancelledError
from twisted.python.failure import Failure
from werkzeug.exceptions import HTTPException
from werkzeug.routing import BaseConverter, RequestRedirect

from cluster.clock import Clock
from cluster.errors import InvalidRequest, PymirrorError
from cluster.names import IndexName, index_name
from cluster.protocol import CHECKPOINT_PATH, FILE_PATH, MIN_HEADER, TILE_PATH
from cluster.state.database import Database
from cluster.state.position import Position
from cluster.web.devpi.asking import wants_json
from cluster.web.devpi.links import file_meta
from cluster.web.files import METADATA_SUFFIX, Files
from cluster.web.headers import NodeHeaders
from cluster.web.identity import Identity
from cluster.web.log import LogPages
from cluster.web.metrics import METRICS_PATH, metrics_reply
from cluster.web.quick import QuickPages
from cluster.web.replies import Reply, error_reply, json_reply, message_reply, send
from cluster.web.request import NodeRequest, StreamHandler
from cluster.web.simple import SimplePages, page_reply
from cluster.web.status import StatusDocument
from cluster.web.statusview import status_for

MIN_WAIT_SECONDS = 5.0


class TooFarBehind(PymirrorError):
    """A node has not applied what a client wants to read (RFC 9110 §15.6.5)."""

    status = 504


Handler = Callable[..., Awaitable[Reply | None]]


class OwnName(BaseConverter):
    """A path segment that can be the name of a project or a version: ours begin with a plus."""

    regex = r"[^+/][^/]*"
    part_isolating = True


@define
class NodeWeb:
    """What every node serves. Subclasses add their routes to an `app` of their own."""

    clock: Clock
    database: Database
    position: Position
    headers: NodeHeaders
    identity: Identity
    simple: SimplePages
    quick: QuickPages
    files: Files
    status: StatusDocument
    log: LogPages

    def common_headers(self) -> dict[bytes, bytes]:
        """Every answer says how far this node is."""
        return self.headers.at(self.position.serial)

    def stream_handler(self, request: NodeRequest) -> StreamHandler | None:
        """Nobody takes bodies as streams unless a subclass does."""
        return None

    async def reached(self, minimum: str) -> bool:
        """Wait until this node has applied a serial that a client has seen elsewhere.

        On a node that has not heard of a promotion, the serial may be another entry's.
        """
        epoch, serial = place_of(minimum)
        there = await self.position.reached(serial, MIN_WAIT_SECONDS)
        return there and self.position.head.epoch >= epoch

    async def answer_for(self, request: NodeRequest) -> Reply:
        """This node is too far behind, and knows of nobody who is not."""
        raise TooFarBehind(f"this node is at serial {self.position.serial} only; try again")

    def serve_hot(self, request: NodeRequest) -> bool:
        """Answer a page from memory: no database, no routing."""
        page = self.simple.hot(request)
        if page is None:
            return not wants_json(request) and self.files.hot(request)
        if not self.quick.send(request, page, self.position.serial):
            request.set_common_headers()
            request.answer(page_reply(request, page))
        return True


def place_of(minimum: str) -> tuple[int, int]:
    """Epoch (0: any) and serial in ``<serial>`` or ``<epoch>.<serial>``; raises InvalidRequest."""
    epoch, _, serial = minimum.strip().rpartition(".")
    numbers = [epoch or "0", serial]
    if not all(one.isascii() and one.isdigit() and len(one) < 19 for one in numbers):
        raise InvalidRequest(f"{MIN_HEADER} is <serial> or <epoch>.<serial>, not {minimum!r}")
    return int(numbers[0]), int(serial)


def answering(handler: Handler) -> Callable[..., Awaitable[None]]:
    """Make a Klein endpoint of a coroutine that returns a Reply, raises, or answers itself."""

    @wraps(handler)
    async def endpoint(web: Any, request: NodeRequest, *args: Any, **kw: Any) -> None:
        request.set_common_headers()
        try:
            reply = await handler(web, request, *args, **kw)
        except CancelledError:
            return  # the client is gone, and Klein says so in this way
        except Exception:
            if request.startedWriting:
                # Too late for an error: only a broken connection says that this is not all.
                request.channel.forceAbortClient()
                raise
            reply = error_reply(Failure(), request.header("Accept") or "")
        if reply is not None and not request.lost:
            request.set_common_headers()
            send(request, reply)

    # Klein finds a handler by this name alone, and two modules may each have a `_create`.
    endpoint.__name__ = f"{handler.__module__}.{handler.__qualname__}"
    return endpoint


def add_common_routes(app: Klein) -> None:
    """Register what both kinds of node serve."""
    # Else "//" is redirected to a URL with this node's own host and port, without the query.
    app.url_map.merge_slashes = False
    app.url_map.converters["own"] = OwnName
    index = "/<user>/<name>"
    for path, handler in (
        ("/+status", _status),
        ("/+ready", _ready),
        (METRICS_PATH, _metrics),
        (CHECKPOINT_PATH, _checkpoint),
        (TILE_PATH + "/<level>/<number>", _tile),
        (TILE_PATH + "/<level>/<number>.p/<width>", _tile),
        (FILE_PATH + "/<sha256>", _node_file),
        (index + "/+simple", _project_list),
        (index + "/+simple/", _project_list),
        (index + "/+simple/<project>", _project),
        (index + "/+simple/<project>/", _project),
        (index + "/<any('+f', '+e'):kind>/<head>/<rest>/<filename>", _file),
    ):
        app.route(path, methods=["GET", "HEAD"], strict_slashes=True)(answering(handler))
    app.handle_errors(HTTPException)(_routing_error)  # type: ignore[arg-type]


def _routing_error(web: NodeWeb, request: NodeRequest, failure: Failure) -> None:
    error: HTTPException = failure.value  # type: ignore[assignment]
    if isinstance(error, RequestRedirect):
        send(request, Reply(error.code, headers={"Location": error.new_url}))
        return
    for name, value in error.get_headers():
        if name == "Allow":
            request.setHeader(name, value)
    text = f"{error.name}: {request.method.decode('ascii', 'replace')} is not for this path"
    send(request, message_reply(error.code or 500, text, request.header("Accept") or ""))


async def _status(web: NodeWeb, request: NodeRequest) -> Reply:
    document = await status_for(web, request)
    return json_reply(document, headers={"Cache-Control": "no-store"})


async def _metrics(web: NodeWeb, request: NodeRequest) -> Reply:
    return metrics_reply(await status_for(web, request), request.channel.site.counts)


async def _ready(web: NodeWeb, request: NodeRequest) -> Reply:
    reason = web.status.ready()
    headers = {"Cache-Control": "no-store"}
    if reason is not None:
        return json_reply({"ready": False, "reason": reason}, 503, {**headers, "Retry-After": "2"})
    return json_reply({"ready": True}, headers=headers)


async def _checkpoint(web: NodeWeb, request: NodeRequest) -> Reply:
    return await web.log.checkpoint()


async def _tile(
    web: NodeWeb, request: NodeRequest, level: str, number: str, width: str | None = None
) -> Reply:
    return await web.log.tile(level, number, width)


async def _node_file(web: NodeWeb, request: NodeRequest, sha256: str) -> None:
    web.identity.require_node(request)
    await web.files.send_here(request, sha256)


async def _project_list(web: NodeWeb, request: NodeRequest, user: str, name: str) -> Reply | None:
    return await web.simple.project_list(request, checked(user, name))


async def _project(web: NodeWeb, request: NodeRequest, user: str, name: str, project: str) -> Reply:
    return await web.simple.project(request, checked(user, name), project)


async def _file(
    web: NodeWeb, request: NodeRequest, user: str, name: str, kind: str, head: str, rest: str,
    filename: str,
) -> Reply | None:  # fmt: skip
    index, link = checked(user, name), head + rest
    if wants_json(request) and not filename.endswith(METADATA_SUFFIX):
        return file_meta(await web.files.locate(request, index, kind, link, filename))
    await web.files.serve(request, index, kind, link, filename)
    return None


def checked(user: str, name: str) -> IndexName:
    """An index's name out of a URL; raises InvalidRequest."""
    return index_name(user, name)
