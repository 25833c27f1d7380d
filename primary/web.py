"""The primary's Klein application: what every node serves, and what only the owner does."""

from __future__ import annotations

from collections.abc import Callable

import orjson
from attrs import define
from klein import Klein

from cluster.durable import SecretBlobs
from cluster.errors import Gone, InvalidRequest, NotFound
from cluster.model import SHA256, MirrorIndex
from cluster.names import project_name
from cluster.protocol import (
    COSIGN_PATH,
    EPOCHS_PATH,
    EVIDENCE_PATH,
    FENCE_PATH,
    IDENTITY_PATH,
    NODES_PATH,
    NOTE_PATH,
    REFRESH_PATH,
    REPORTS_PATH,
    SECRET_PATH,
    SERIAL_HEADER,
    TAIL_PATH,
)
from cluster.state import queries
from cluster.state.freshness import THE_LIST
from cluster.upstream.ondemand import OnDemand
from cluster.web.body import RequestStream
from cluster.web.devpi.routes import DevpiWeb, add_read_routes
from cluster.web.replies import Reply, json_reply
from cluster.web.request import NodeRequest, StreamHandler
from cluster.web.routes import answering, checked
from cluster.web.tail import argument, size_of
from cluster.web.uploadtarget import upload_target
from cluster.web.xmlrpc import is_xmlrpc
from primary import joining, snapshots, staging
from primary.devpi import importing, indexes, projects, push, tokens, toxresults, trusted, users
from primary.devpi.importing import ImportResource
from primary.devpi.indexes import IndexResource
from primary.devpi.projects import ProjectResource
from primary.devpi.push import PushResource
from primary.devpi.tokens import TokenResource
from primary.devpi.toxresults import ToxResults
from primary.devpi.trusted import TrustedPublishing
from primary.devpi.users import UserResource
from primary.feed import Feed
from primary.fence import fence_order
from primary.fencing import Fencing
from primary.joining import Joining
from primary.nodes import Nodes
from primary.relayed import Relayed
from primary.snapshots import Snapshots
from primary.staging import Staging
from primary.upload import Uploads


@define
class PrimaryWeb(DevpiWeb):
    """The application; Klein binds `app` to each instance."""

    app = Klein()

    feed: Feed
    relayed: Relayed
    snapshots: Snapshots
    uploads: Uploads
    staging: Staging
    users: UserResource
    indexes: IndexResource
    projects: ProjectResource
    toxresults: ToxResults
    pushes: PushResource
    tokens: TokenResource
    trusted: TrustedPublishing
    imports: ImportResource
    mirror: OnDemand
    fencing: Fencing
    joining: Joining
    nodes: Nodes
    blobs: SecretBlobs
    now: Callable[[], float]

    def stream_handler(self, request: NodeRequest) -> StreamHandler | None:
        """Uploads take their bodies as streams."""
        target = upload_target(request)
        if target is None:
            return self.toxresults.stream_handler(request) or self.imports.stream_handler(request)

        async def handle(request: NodeRequest, stream: RequestStream) -> Reply:
            return await self.uploads.take(request, stream, checked(*target))

        return handle

    @app.route(IDENTITY_PATH, methods=["GET"])
    @answering
    async def _identity(self, request: NodeRequest) -> Reply:
        return self.feed.identity(request)

    @app.route(TAIL_PATH, methods=["GET"])
    @answering
    async def _tail(self, request: NodeRequest) -> Reply | None:
        return await self.feed.tail(request)

    @app.route(EPOCHS_PATH, methods=["GET"])
    @answering
    async def _epochs(self, request: NodeRequest) -> Reply:
        return await self.feed.epochs(request)

    @app.route(NOTE_PATH + "/<size>", methods=["GET"])
    @answering
    async def _note(self, request: NodeRequest, size: str) -> Reply:
        return await self.feed.note(request, size)

    @app.route(EVIDENCE_PATH, methods=["POST"])
    @answering
    async def _evidence(self, request: NodeRequest) -> Reply:
        return await self.feed.evidence(request)

    @app.route(COSIGN_PATH, methods=["POST"])
    @answering
    async def _cosign(self, request: NodeRequest) -> Reply:
        return await self.feed.cosign(request)

    @app.route(REPORTS_PATH, methods=["POST"])
    @answering
    async def _reports(self, request: NodeRequest) -> Reply:
        return await self.relayed.take(request)

    @app.route(NODES_PATH, methods=["GET"])
    @answering
    async def _nodes(self, request: NodeRequest) -> Reply:
        return self.nodes.reply(request)

    @app.route(FENCE_PATH, methods=["POST"])
    @answering
    async def _fence(self, request: NodeRequest) -> Reply:
        self.identity.require_node(request)
        await self.fencing.learn(fence_order(request.content.read()))
        fenced = self.fencing.fence is not None
        return json_reply({**self.fencing.owner().to_json(), "fenced": fenced})

    @app.route("/+node/admit/<user>/<name>", methods=["GET"])
    @answering
    async def _admit(self, request: NodeRequest, user: str, name: str) -> Reply:
        self.identity.require_node(request, for_client=True)
        size = size_of(argument(request, b"size") or "0")
        await self.uploads.admit(request, checked(user, name), size)
        return Reply(204)

    @app.route(SECRET_PATH + "/<name>", methods=["GET"])
    @answering
    async def _secret(self, request: NodeRequest, name: str) -> Reply:
        self.identity.require_node(request)
        if not SHA256.fullmatch(name):
            raise NotFound("there is no such blob")
        try:
            data = await self.database.readers.run(self.blobs.get, name)
        except FileNotFoundError:
            raise Gone("there is no such blob (any more)") from None
        if not data:  # lost before this node was promoted: see `SecretBlobs.lost`
            raise Gone("there is no such blob any more")
        headers = {"Cache-Control": "no-store"}
        return Reply(200, data, "application/octet-stream", headers)

    @app.route(REFRESH_PATH, methods=["POST"])
    @answering
    async def _refresh(self, request: NodeRequest) -> Reply:
        self.identity.require_node(request)
        index, project = await self._asked_for(request)
        answer = (await self.mirror.ensure(index, project)).freshness
        now = self.now()
        document = {
            "outcome": answer.outcome.value,
            "age_seconds": max(0.0, now - answer.checked_at),
            "success_age_seconds": answer.succeeded_at and max(0.0, now - answer.succeeded_at),
            "error": answer.error,
            "serial": self.position.serial,
        }
        return json_reply(document, headers={SERIAL_HEADER: str(self.position.serial)})

    async def _asked_for(self, request: NodeRequest) -> tuple[MirrorIndex, str]:
        try:
            body = orjson.loads(request.content.read())
            user, _, name = str(body["index"]).partition("/")
            project = str(body["project"])
        except (orjson.JSONDecodeError, KeyError, TypeError):
            raise InvalidRequest('refresh takes {"index": …, "project": …}') from None
        index = await self.database.read(lambda c: queries.index_or_404(c, checked(user, name)))
        if not isinstance(index, MirrorIndex):
            raise NotFound(f"{index.name} is not a mirror")
        return index, THE_LIST if project == THE_LIST else project_name(project)

    @app.route("/<user>/<name>", methods=["POST"])
    @app.route("/<user>/<name>/", methods=["POST"])
    @answering
    async def _not_an_upload(self, request: NodeRequest, user: str, name: str) -> Reply | None:
        if is_xmlrpc(request):
            return await self.finding.xmlrpc.call(request, checked(user, name))
        if (request.header("Content-Type") or "").startswith("application/json"):
            return await self.pushes.push(request, checked(user, name))
        raise InvalidRequest("an upload is a POST of multipart/form-data with a body")


add_read_routes(PrimaryWeb.app)
for module in (
    joining, snapshots, staging, users, indexes, projects, push, toxresults, tokens, trusted,
    importing,
):  # fmt: skip
    module.add_routes(PrimaryWeb.app)
