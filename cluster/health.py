"""What is wrong, read from status documents (pure): each trouble with what to do about it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from attrs import frozen

from cluster.nearest import STALE_SECONDS

_UPKEEP: Final = {
    "snapshot_error": "the last snapshot could not be made",
    "compaction_error": "old entries of the log could not be removed",
}
_UPKEEP_HINT: Final = "see the room on its disk, and its log; it is tried again"


@frozen
class Problem:
    """A trouble: where, what, since when (RFC 3339 or None), and what to do (or None)."""

    where: str
    what: str
    since: str | None = None
    hint: str | None = None


def problems(status: Mapping[str, Any]) -> list[Problem]:
    """What keeps a node, and the replicas that it knows of, from being healthy.

    A document of another version may lack fields: what is not said is not a problem.
    """
    return [*_of_node(status), *_of_replicas(status), *_of_upstreams(status), *_of_triggers(status)]


def _of_node(status: Mapping[str, Any]) -> Iterator[Problem]:
    where = node_name(status)
    follower = _object(status.get("follower"))
    state = follower.get("state")
    fenced = _object(status.get("fenced"))
    if fenced:
        yield Problem(
            where, str(fenced.get("error") or "replaced by another primary: it takes no changes"),
            fenced.get("since"), str(fenced.get("hint") or "see `pymirror demote`"),
        )  # fmt: skip
    for name, what in _UPKEEP.items():
        if status.get(name):
            yield Problem(where, f"{what}: {status[name]}", None, _UPKEEP_HINT)
    disk = _object(status.get("disk"))
    free = disk.get("free_bytes")
    if free is not None and free < disk.get("floor_bytes", 0):
        what = f"uploads are refused: {free} bytes are free on its disk"
        yield Problem(where, what, None, "make room there, or give it a lower --min-free")
    if not status.get("ready", True) and not follower:
        yield Problem(where, "not ready")
    lag = follower.get("lag_seconds") or 0.0
    if state == "catching-up" and lag <= STALE_SECONDS and status.get("ready"):
        return
    if follower and state != "in-sync":
        error = follower.get("last_error") if follower.get("failures") else None
        what = f"{state}: {error}" if error else str(state)
        yield Problem(where, what, follower.get("since"), follower.get("hint"))


def _of_replicas(status: Mapping[str, Any]) -> Iterator[Problem]:
    for one in _objects(status.get("replicas")):
        if one.get("healthy", True):
            continue
        lost = one.get("lost_seconds") is not None or (one.get("last_contact_seconds") or 0) > 60
        what = "does not poll any more" if lost else str(one.get("state") or "unknown state")
        error = one.get("error")
        since = one.get("last_contact") if lost else one.get("state_since")
        yield Problem(
            replica_name(one), f"{what}: {error}" if error and not lost else what, since,
            one.get("hint"),
        )  # fmt: skip


def _of_upstreams(status: Mapping[str, Any]) -> Iterator[Problem]:
    for name, upstream in _object(status.get("upstreams")).items():
        error_at, success = upstream.get("last_error_at"), upstream.get("last_success")
        # Times of one clock in one format: their text is in their order.
        if error_at is not None and (success is None or error_at > success):
            yield Problem(
                f"upstream of {name}", str(upstream.get("last_error")), error_at,
                "see whether the upstream is reached from here; what is mirrored is served",
            )  # fmt: skip


def _of_triggers(status: Mapping[str, Any]) -> Iterator[Problem]:
    for one in _objects(status.get("triggers")):
        if one.get("failing_since"):
            yield Problem(
                f"{one.get('kind')} of {one.get('index')}", str(one.get("last_error")),
                one["failing_since"], f"{one.get('pending')} events wait for {one.get('target')}",
            )  # fmt: skip


def node_name(status: Mapping[str, Any]) -> str:
    """How a node is called: its URL, or its role and the beginning of its uuid."""
    return str(status.get("outside_url") or f"{status.get('role')} {_short(status)}")


def replica_name(replica: Mapping[str, Any]) -> str:
    """The same for a row of the primary's map."""
    address = replica.get("address")
    where = f" at {address}" if address else ""
    return str(replica.get("outside_url") or f"replica {_short(replica)}{where}")


def _short(of: Mapping[str, Any]) -> str:
    return str(of.get("uuid", "?"))[:8]


def _object(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _objects(value: Any) -> list[Mapping[str, Any]]:
    return [one for one in value if isinstance(one, Mapping)] if isinstance(value, list) else []
