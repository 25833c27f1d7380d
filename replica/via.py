"""The nodes that a request has passed on its way to the primary: it must not come back to one."""

from __future__ import annotations

from collections.abc import Sequence

from cluster.errors import LoopDetected
from cluster.protocol import LONGEST_CHAIN, VIA_HEADER
from cluster.web.request import NodeRequest


def nodes_of(value: str | None) -> tuple[str, ...]:
    """The uuids in a `X-Pymirror-Via` header."""
    return tuple(part.strip() for part in (value or "").split(",") if part.strip())


def check_chain(chain: Sequence[str], own: str) -> None:
    """Raise LoopDetected when this node is in a chain already, or the chain is too long."""
    if own in chain:
        raise LoopDetected(
            f"replicas follow each other in a ring: {' → '.join((*chain, own))}; point one of "
            "them at the primary"
        )
    if len(chain) >= LONGEST_CHAIN:
        raise LoopDetected(
            f"more than {LONGEST_CHAIN} replicas follow one another; point this one at a node "
            "nearer to the primary"
        )


def via_through(request: NodeRequest, own: str) -> str:
    """The header for a request that this node passes on; raises LoopDetected."""
    passed = nodes_of(request.header(VIA_HEADER))
    check_chain(passed, own)
    return ",".join((*passed, own))
