"""What the sender of a request may read: decided before anything of an index is shown.

Most indexes are for everybody; for those nobody's password is looked at.
"""

from __future__ import annotations

from collections.abc import Iterable

from attrs import frozen

from cluster.auth.acl import ANONYMOUS, ANYBODY, Principal, may_read, require_read
from cluster.model import Index
from cluster.protocol import CLIENT_HEADER
from cluster.web.identity import Identity
from cluster.web.request import NodeRequest


def is_public(chain: Iterable[Index]) -> bool:
    """Whether everybody may read all these indexes."""
    return all(ANYBODY in index.acl_pkg_read for index in chain)


@frozen
class Reader:
    """Who reads, and about which project; usable as `cluster.state.queries.MayRead`.

    A node of the cluster reads everything: it has its own clients' rights to check.
    """

    who: Principal = ANONYMOUS
    project: str | None = None
    is_node: bool = False

    def __call__(self, index: Index) -> bool:
        """Whether the reader may see this index."""
        return self.is_node or may_read(self.who, index, self.project)

    def require(self, index: Index) -> None:
        """Raise AuthenticationRequired or NotFound unless the reader may see this index."""
        if not self.is_node:
            require_read(self.who, index, self.project)


def is_node(identity: Identity, request: NodeRequest) -> bool:
    """Whether a node asks for itself: what it passes on for a client has that client's rights.

    Raises AuthenticationRequired for a bad token.
    """
    return identity.node(request) is not None and request.header(CLIENT_HEADER) is None


async def reader_of(identity: Identity, request: NodeRequest, project: str | None = None) -> Reader:
    """Who reads; wrong credentials count as none."""
    if is_node(identity, request):
        return Reader(project=project, is_node=True)
    return Reader(await identity.reader(request), project)
