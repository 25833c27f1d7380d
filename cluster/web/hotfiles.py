"""Files that were asked for lately: small ones with their bytes, of others what they are."""

from __future__ import annotations

from attrs import frozen

from cluster.files.store import FileStore
from cluster.names import NormalizedName
from cluster.state.projectcache import ProjectCache
from cluster.web.fileplan import FileFacts, plan
from cluster.web.request import NodeRequest

SMALL_BYTES = 64 << 10
_ENTRY_BYTES = 500


@frozen
class HotFile:
    """What a path leads to; `body` is its bytes if it is small."""

    project: NormalizedName
    read_at: int
    facts: FileFacts
    body: bytes | None = None

    @property
    def size(self) -> int:
        """Bytes that keeping it costs, roughly."""
        return len(self.body or b"") + _ENTRY_BYTES


HotFiles = ProjectCache[bytes, HotFile]


def send_hot(request: NodeRequest, file: HotFile, store: FileStore) -> bool:
    """Answer with a file whose bytes are in memory; False when they are not."""
    if file.body is None:
        return False
    answer = plan(request.method, request.requestHeaders, file.facts, len(file.body))
    request.setResponseCode(answer.status)
    request.set_common_headers()
    for name, value in answer.headers.items():
        request.setHeader(name, value)
    if answer.has_body:
        body = file.body[answer.start : answer.stop]
        request.write(body)
        store.served(len(body), file.facts.sha256)
    request.finish()
    return True
