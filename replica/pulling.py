"""GET /+node/pull/<sha256>: a file for a replica behind this one, fetched if it is not here.

So replicas that keep all uploads may follow one that keeps none, and the bytes of an upload come
down a chain while they arrive. It goes only towards the primary, so nobody waits in a circle.
"""

from __future__ import annotations

from collections.abc import Callable

from attrs import define

from cluster.errors import NotFound
from cluster.files.fetch import Fetcher
from cluster.files.sources import Source, Wanted
from cluster.files.store import FileStore
from cluster.model import SHA256
from cluster.web.filebody import send_stored, send_transfer
from cluster.web.fileplan import FileFacts
from cluster.web.identity import Identity
from cluster.web.request import NodeRequest
from replica.via import via_through


@define
class Pulling:
    """`sources` are those of an uploaded file, for a question that has passed some nodes."""

    _identity: Identity
    _store: FileStore
    _fetcher: Fetcher
    _sources: Callable[[str, str], list[Source]]
    _own: str

    async def serve(self, request: NodeRequest, sha256: str) -> None:
        """Answer with the bytes; raises NotFound, LoopDetected, UpstreamError."""
        self._identity.require_node(request)
        via = via_through(request, self._own)
        if not SHA256.fullmatch(sha256):
            raise NotFound("that is no sha256")
        facts = FileFacts(sha256, cache_control="no-store")
        if await self._store.size_of(sha256) is not None:
            with self._store.using(sha256):
                await send_stored(request, self._store, facts)
            return
        wanted = Wanted(sha256, sha256=sha256)
        transfer = self._fetcher.start(wanted, self._sources(sha256, via), counted=False)
        await send_transfer(request, transfer, self._store.threads, facts)
