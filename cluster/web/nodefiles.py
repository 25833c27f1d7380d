"""GET /+node/file/<sha256>: the bytes that this node has, for other nodes. It never fetches."""

from __future__ import annotations

from cluster.errors import NotFound
from cluster.files.fetch import Fetcher
from cluster.files.store import FileStore
from cluster.model import SHA256
from cluster.web.filebody import send_stored, send_transfer
from cluster.web.fileplan import FileFacts
from cluster.web.request import NodeRequest


async def serve_node_file(
    request: NodeRequest, store: FileStore, fetcher: Fetcher, sha256: str
) -> None:
    """Answer from the store; with ``arriving=1`` also while the file comes from the primary or an
    upstream. Raises NotFound for what is not here.
    """
    if not SHA256.fullmatch(sha256):
        raise NotFound("that is no sha256")
    facts = FileFacts(sha256, cache_control="no-store")
    if await store.size_of(sha256) is not None:
        await send_stored(request, store, facts)
        return
    transfer = fetcher.running(sha256) if request.args.get(b"arriving") == [b"1"] else None
    arrival = None if transfer is None else transfer.present
    # From a sibling it might come back to the one who asks: nodes would wait for each other.
    if transfer is None or arrival is None or not arrival.passes_on:
        raise NotFound(f"no file {sha256} here")
    await send_transfer(request, transfer, store.threads, facts)
