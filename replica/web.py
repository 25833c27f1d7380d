"""A replica's Klein application: what every node serves, and writes that go to the primary."""

from __future__ import annotations

from attrs import define
from klein import Klein

from cluster.errors import PymirrorError
from cluster.protocol import IDENTITY_PATH, REFRESH_PATH, TAIL_PATH
from cluster.web.body import RequestStream
from cluster.web.devpi.routes import DevpiWeb, add_read_routes
from cluster.web.replies import Reply
from cluster.web.request import NodeRequest, StreamHandler
from cluster.web.routes import answering, checked
from cluster.web.uploadtarget import upload_target
from replica.forwarding import Forwarding

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
    primary_url: str

    def stream_handler(self, request: NodeRequest) -> StreamHandler | None:
        """Uploads stream through to the primary."""
        target = upload_target(request)
        if target is None:
            return None

        async def handle(request: NodeRequest, stream: RequestStream) -> Reply:
            return await self.forwarding.upload(request, stream, checked(*target))

        return handle

    @app.route(TAIL_PATH, methods=["GET"])
    @app.route(IDENTITY_PATH, methods=["GET"])
    @app.route(REFRESH_PATH, methods=["POST"])
    @answering
    async def _only_primary(self, request: NodeRequest) -> Reply:
        raise NotThePrimary(f"this is a replica; the primary is {self.primary_url}")

    @app.route("/", methods=WRITES, branch=True)
    @answering
    async def _write(self, request: NodeRequest) -> Reply:
        return await self.forwarding.small(request)


add_read_routes(ReplicaWeb.app)
