"""A replica's Klein application: what every node serves, and writes that go to the primary."""

from __future__ import annotations

from collections.abc import Callable

from attrs import define
from klein import Klein

from cluster.errors import PymirrorError
from cluster.protocol import FENCE_PATH, KEYS_PATH, PULL_PATH, REFRESH_PATH
from cluster.web.body import RequestStream
from cluster.web.devpi.routes import DevpiWeb, add_read_routes
from cluster.web.paths import AUDIENCE_PATH, DISCOVERY_PATH, TOKENS_PATH
from cluster.web.replies import Reply
from cluster.web.request import MAX_BODY_BYTES, NodeRequest, StreamHandler
from cluster.web.routes import answering, checked
from cluster.web.uploadtarget import upload_target
from cluster.web.xmlrpc import is_xmlrpc
from replica.forwarding import Forwarding
from replica.pulling import Pulling
from replica.relay import Relay, add_log_routes

WRITES = ["PUT", "POST", "PATCH", "DELETE", "PUSH"]
"""All that changes something (devpi-client's push has a method of its own)."""


class NotThePrimary(PymirrorError):
    """Only the primary answers this (RFC 9110 §15.5.20)."""

    status = 421


@define
class ReplicaWeb(DevpiWeb):
    """The application; Klein binds `app` to each instance."""

    app = Klein()

    forwarding: Forwarding
    relay: Relay
    pulling: Pulling
    primary_url: Callable[[], str]

    async def answer_for(self, request: NodeRequest) -> Reply:
        """What the primary says, while this replica is too far behind."""
        return await self.forwarding.read(request)

    def stream_handler(self, request: NodeRequest) -> StreamHandler | None:
        """Uploads and other large bodies stream through to the primary."""
        target = upload_target(request)
        if target is None:
            is_write = request.method.decode("ascii", "replace") in WRITES
            goes_on = is_write and not is_xmlrpc(request) and _is_large(request)
            return self.forwarding.stream if goes_on else None

        async def handle(request: NodeRequest, stream: RequestStream) -> Reply:
            return await self.forwarding.upload(request, stream, checked(*target))

        return handle

    @app.route(FENCE_PATH, methods=["POST"])
    @answering
    async def _only_primary(self, request: NodeRequest) -> Reply:
        raise NotThePrimary(f"this is a replica; the primary is {self.primary_url()}")

    @app.route(REFRESH_PATH, methods=["POST"])
    @answering
    async def _refresh(self, request: NodeRequest) -> Reply:
        return await self.forwarding.from_node(request, for_client=False)

    @app.route(PULL_PATH + "/<sha256>", methods=["GET"])
    @answering
    async def _pull(self, request: NodeRequest, sha256: str) -> None:
        await self.pulling.serve(request, sha256)

    @app.route("/+node/admit/<user>/<name>", methods=["GET"])
    @answering
    async def _admit(self, request: NodeRequest, user: str, name: str) -> Reply:
        return await self.forwarding.from_node(request, for_client=True)

    @app.route("/<user>/<name>", methods=["POST"])
    @app.route("/<user>/<name>/", methods=["POST"])
    @answering
    async def _post(self, request: NodeRequest, user: str, name: str) -> Reply | None:
        if is_xmlrpc(request):
            return await self.finding.xmlrpc.call(request, checked(user, name))
        return await self.forwarding.small(request)

    @app.route(TOKENS_PATH, methods=["GET"])
    @app.route(KEYS_PATH, methods=["GET"])
    @app.route(AUDIENCE_PATH, methods=["GET"])
    @app.route(DISCOVERY_PATH, methods=["GET"])
    @app.route("/", methods=WRITES, branch=True)
    @answering
    async def _write(self, request: NodeRequest) -> Reply:
        return await self.forwarding.small(request)


def _is_large(request: NodeRequest) -> bool:
    length = request.header("Content-Length") or ""
    return not length.isdigit() or int(length) > MAX_BODY_BYTES


add_read_routes(ReplicaWeb.app)
add_log_routes(ReplicaWeb.app)
