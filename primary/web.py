"""The primary's Klein application: what every node serves, and what only the owner does."""

from __future__ import annotations

from collections.abc import Callable

import orjson
from attrs import define
from klein import Klein

from cluster.errors import InvalidRequest, NotFound
from cluster.model import MirrorIndex
from cluster.names import project_name
from cluster.protocol import IDENTITY_PATH, REFRESH_PATH, SERIAL_HEADER, TAIL_PATH
from cluster.state import queries
from cluster.state.freshness import THE_LIST
from cluster.upstream.ondemand import OnDemand
from cluster.web.body import RequestStream
from cluster.web.replies import Reply, json_reply
from cluster.web.request import NodeRequest, StreamHandler
from cluster.web.routes import NodeWeb, add_common_routes, answering, checked
from cluster.web.uploadtarget import upload_target
from primary.devpi.indexes import IndexResource
from primary.feed import Feed
from primary.upload import Uploads


@define
class PrimaryWeb(NodeWeb):
    """The application; Klein binds `app` to each instance."""

    app = Klein()

    feed: Feed
    uploads: Uploads
    indexes: IndexResource
    mirror: OnDemand
    now: Callable[[], float]

    def stream_handler(self, request: NodeRequest) -> StreamHandler | None:
        """Uploads take their bodies as streams."""
        target = upload_target(request)
        if target is None:
            return None

        async def handle(request: NodeRequest, stream: RequestStream) -> Reply:
            return await self.uploads.take(request, stream, checked(*target))

        return handle

    @app.route(IDENTITY_PATH, methods=["GET"])
    @answering
    async def _identity(self, request: NodeRequest) -> Reply:
        return self.feed.identity(request)

    @app.route(TAIL_PATH, methods=["GET"])
    @answering
    async def _tail(self, request: NodeRequest) -> Reply:
        return await self.feed.tail(request)

    @app.route("/+node/admit/<user>/<name>", methods=["GET"])
    @answering
    async def _admit(self, request: NodeRequest, user: str, name: str) -> Reply:
        self.identity.require_node(request)
        await self.uploads.admit(request, checked(user, name))
        return Reply(204)

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

    @app.route("/<user>/<name>", methods=["PUT"])
    @answering
    async def _create_index(self, request: NodeRequest, user: str, name: str) -> Reply:
        return await self.indexes.create(request, checked(user, name))

    @app.route("/<user>/<name>", methods=["POST"])
    @app.route("/<user>/<name>/", methods=["POST"])
    @answering
    async def _not_an_upload(self, request: NodeRequest, user: str, name: str) -> Reply:
        raise InvalidRequest("an upload is a POST of multipart/form-data with a body")


add_common_routes(PrimaryWeb.app)
