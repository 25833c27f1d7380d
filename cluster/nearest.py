"""Which node a client should use (pure): near, healthy, fresh, and not busy.

The order: the longest network that holds the client's address, then the region, then what a
node can take. Nodes that are equally near share the clients by weight, lag and load; a client
keeps its node as long as nothing changes, for there the files that it wants are.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from hashlib import sha256
from typing import Any, Final
from urllib.parse import urlsplit

from attrs import frozen

from cluster.errors import InvalidRequest
from cluster.networks import MOST_NETWORKS, Address, Networks, longest_prefix, parse_network

STALE_SECONDS: Final = 30.0
"""A replica that is further behind is not handed out."""
CONTACT_SECONDS: Final = 60.0
"""Nor is one that was not heard of for longer; in sync it polls every 25 s."""
LOST_SECONDS: Final = 3.0
"""Nor one whose connection broke so long ago without another poll."""
DEFAULT_WEIGHT: Final = 100
MOST_WEIGHT: Final = 1_000
PRIMARY: Final = "primary"

_NEVER_IN: Final = frozenset({"diverged", "other-log", "not-admitted", "bad-answer",
                              "needs-upgrade", "disk-failed"})  # fmt: skip
_HASHES: Final = 2**64


@frozen
class Candidate:
    """A node that clients may be sent to; `lag` in seconds, `load` 1 for all processors busy."""

    uuid: str
    role: str
    url: str
    region: str | None
    networks: Networks
    weight: float
    lag: float
    load: float
    is_healthy: bool


def is_fresh(node: Mapping[str, Any], older_seconds: float = 0.0) -> bool:
    """Whether a replica may be handed out, by its fields in the list of nodes.

    `older_seconds` is the age of the list.
    """
    contact = _number(node.get("last_contact_seconds"), math.inf) + older_seconds
    lost = node.get("lost_seconds")
    return (
        node.get("ready") is not False
        and str(node.get("state")) not in _NEVER_IN
        and _number(node.get("lag_seconds"), 0.0) <= STALE_SECONDS
        and contact <= CONTACT_SECONDS
        and (lost is None or _number(lost, math.inf) <= LOST_SECONDS)
    )


def candidate(node: Mapping[str, Any], older_seconds: float = 0.0) -> Candidate | None:
    """A node of the list of nodes, None for one that clients cannot be sent to.

    `healthy` of the list counts, and `older_seconds`, the age of the list, on top of it.
    """
    url, region = node.get("url"), node.get("region")
    if not isinstance(url, str) or not _is_url(url):
        return None
    healthy = node.get("healthy", True) is not False and is_fresh(node, older_seconds)
    return Candidate(
        uuid=str(node.get("uuid", "")),
        role=str(node.get("role", "replica")),
        url=url.rstrip("/"),
        region=region if isinstance(region, str) else None,
        networks=_networks(node.get("networks")),
        weight=min(_number(node.get("weight"), DEFAULT_WEIGHT), float(MOST_WEIGHT)),
        lag=_number(node.get("lag_seconds"), 0.0),
        load=_number(node.get("load"), 0.0),
        is_healthy=healthy,
    )


def ranked(
    candidates: Iterable[Candidate], address: Address | None, region: str | None
) -> list[Candidate]:
    """The healthy candidates, the best one for a client first; primaries come last.

    One with the weight 0 is being drained: it comes behind all other replicas.
    """

    def rank(one: Candidate) -> tuple[Any, ...]:
        prefix = -1 if address is None else longest_prefix(one.networks, address)
        is_here = region is not None and one.region == region
        return (
            one.role == PRIMARY, one.weight == 0, -prefix, not is_here, -_share(one, address),
            one.uuid,
        )  # fmt: skip

    return sorted((one for one in candidates if one.is_healthy), key=rank)


def _share(one: Candidate, address: Address | None) -> float:
    # Weighted rendezvous hashing: each node gets its share of the addresses, and a change of
    # one node's weight moves only the clients that it gains or loses.
    ability = (one.weight or 1.0) / (1.0 + one.lag + one.load)
    digest = sha256(f"{one.uuid} {address}".encode()).digest()
    chance = (int.from_bytes(digest[:8]) + 1) / (_HASHES + 2)
    return -ability / math.log(chance)


def public(candidates: Sequence[Candidate]) -> list[dict[str, Any]]:
    """What everybody may know of the nodes: where they are and whether to use them."""
    return [
        {
            "url": one.url,
            "role": one.role,
            "region": one.region,
            "weight": one.weight,
            "fresh": one.is_healthy,
        }
        for one in sorted(candidates, key=lambda one: (one.role != PRIMARY, one.url))
    ]


def _number(value: object, default: float) -> float:
    usable = isinstance(value, int | float) and not isinstance(value, bool)
    return max(0.0, float(value)) if usable and math.isfinite(value) else default  # type: ignore[arg-type]


def _networks(value: object) -> Networks:
    found = []
    for name in value[:MOST_NETWORKS] if isinstance(value, list) else ():
        try:
            found.append(parse_network(name) if isinstance(name, str) else None)
        except InvalidRequest:
            continue
    return tuple(network for network in found if network is not None)


def _is_url(url: str) -> bool:
    try:
        parts = urlsplit(url)
        plain = parts.scheme in ("http", "https") and bool(parts.hostname) and "@" not in url
    except ValueError:
        return False
    return plain and url.isascii() and url.isprintable() and not parts.query and " " not in url
