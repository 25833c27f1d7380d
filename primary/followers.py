"""What replicas report of themselves with each poll: the primary's map of the cluster."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, Final

import orjson
from attrs import asdict, define, field

from cluster.hints import replica_hint
from cluster.nearest import CONTACT_SECONDS, LOST_SECONDS, STALE_SECONDS, is_fresh
from cluster.state.position import Head, Position
from cluster.state.rows import Touched
from cluster.upstream.health import iso
from primary.remembered import FORGET_SECONDS, Remembered
from primary.reports import read_report

DIVERGED: Final = "diverged"
_MOST = 1_000
_COMMITS = 1_024
_AS_TIMES = {"state_since", "error_at"}


@define
class Replica:
    """What is known of a replica; times are seconds since 1970.

    `root` is what it says its log's root is (base64), `refused` why that is not in this log.
    `lost_at` is when the connection of its last poll broke. `via` are the replicas between it
    and the primary, nearest to it first; `address` is empty if there are any.
    """

    position: int
    root: str
    at: float
    address: str
    said: dict[str, Any]
    behind_since: float | None = None
    refused: str | None = None
    refused_at: float | None = None
    lost_at: float | None = None
    via: tuple[str, ...] = ()


@define
class Followers:
    """Every replica heard of in the last 30 days, with its last report.

    `on_uses` hears when API tokens were used on replicas.
    """

    _position: Position
    _now: Callable[[], float]
    _memory: Remembered | None = None
    _on_uses: Callable[[Mapping[str, float]], None] = lambda uses: None
    _replicas: dict[str, Replica] = field(factory=dict)
    _commits: deque[tuple[int, float]] = field(factory=deque)
    _known_from: int = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._known_from = self._position.serial
        self._position.listen(self._committed)

    async def load(self) -> None:
        """Take up what was known before the last restart."""
        if self._memory is not None:
            for node, record in (await self._memory.load()).items():
                self._replicas.setdefault(node, _recalled(record))

    def heard(
        self, node: str, position: int, header: str | None, address: str, root: str = "",
        via: tuple[str, ...] = (),
    ) -> dict[str, Any]:  # fmt: skip
        """A replica polled, said between two polls how far it is, or has others say so; `header`
        is the JSON it sends of itself, which may be anything.

        Returns what is understood of it.
        """
        now, (said, uses) = self._now(), read_report(header)
        if uses:
            self._on_uses(uses)
        before = self._replicas.get(node)
        if before is None and len(self._replicas) >= _MOST:
            self.forget(min(self._replicas, key=lambda uuid: self._replicas[uuid].at))
        heard = Replica(position, root, now, address, said, via=via)
        if before is not None and (before.position, before.root) == (position, root):
            heard.refused, heard.refused_at = before.refused, before.refused_at
        if position < self._position.serial:
            heard.behind_since = (
                self._lacking_since(position) or (before and before.behind_since) or now
            )
        self._replicas[node] = heard
        if self._memory is not None:
            self._memory.note(node, lambda: asdict(heard))
        return said

    def refused(self, node: str, why: str) -> None:
        """What a replica holds is not a beginning of this log."""
        replica = self._replicas[node]
        replica.refused, replica.refused_at = why, replica.refused_at or self._now()

    def lost(self, node: str) -> None:
        """The connection of a replica's poll broke."""
        if node in self._replicas:
            self._replicas[node].lost_at = self._now()

    def via(self, node: str) -> tuple[str, ...]:
        """The replicas between a replica and this primary, nearest to it first."""
        return self._replicas[node].via if node in self._replicas else ()

    def forget(self, node: str) -> None:
        """A replica is no more: `pymirror node revoke`."""
        self._replicas.pop(node, None)
        if self._memory is not None:
            self._memory.forget(node)

    def slowest(self, seconds: float) -> int | None:
        """The lowest position of a replica that polled within so many seconds; None for none."""
        since = self._now() - seconds
        return min((r.position for r in self._replicas.values() if r.at >= since), default=None)

    def document(self) -> list[dict[str, Any]]:
        """The `replicas` part of the primary's status document."""
        now = self._now()
        known = sorted(self._replicas.items())
        return [self._row(node, r, now) for node, r in known if now - r.at < FORGET_SECONDS]

    def _row(self, node: str, replica: Replica, now: float) -> dict[str, Any]:
        said = {k: iso(v) if k in _AS_TIMES else v for k, v in replica.said.items()}
        lag_seconds = self._lag_seconds(replica, now)
        lost_for = self._lost_seconds(replica, now)
        row = {
            "uuid": node,
            "address": replica.address or None,
            "via": list(replica.via),
            "position": replica.position,
            "root": replica.root or None,
            "lag_entries": max(0, self._position.serial - replica.position),
            "lag_seconds": lag_seconds,
            "last_contact": iso(replica.at),
            "last_contact_seconds": round(now - replica.at, 3),
            "lost_seconds": lost_for,
            **said,
        }
        if replica.refused is not None:
            row |= {
                "state": DIVERGED, "state_since": iso(replica.refused_at),
                "error": replica.refused, "error_at": iso(replica.refused_at),
            }  # fmt: skip
        row["healthy"] = is_fresh(row)
        is_lost = now - replica.at > CONTACT_SECONDS or (lost_for or 0.0) > LOST_SECONDS
        row["hint"] = replica_hint(
            row["state"], is_lost=is_lost, is_behind=lag_seconds > STALE_SECONDS
        )
        return row

    def _committed(self, head: Head, touched: Touched) -> None:
        self._commits.append((head.serial, self._now()))
        if len(self._commits) > _COMMITS:
            self._known_from, _ = self._commits.popleft()

    def _lag_seconds(self, replica: Replica, now: float) -> float:
        if replica.position >= self._position.serial:
            return 0.0
        since = self._lacking_since(replica.position) or replica.behind_since or replica.at
        return round(max(0.0, now - since), 3)

    def _lost_seconds(self, replica: Replica, now: float) -> float | None:
        # Who is behind a replica that is cut off gets nothing either.
        between = [self._replicas[node] for node in replica.via if node in self._replicas]
        at = [one.lost_at for one in (replica, *between) if one.lost_at is not None]
        return round(now - min(at), 3) if at else None

    def _lacking_since(self, position: int) -> float | None:
        """When the first entry behind a position was committed; None if that is not known."""
        if position < self._known_from:
            return None
        since = None
        for serial, at in reversed(self._commits):
            if serial <= position:
                break
            since = at
        return since


def _recalled(record: dict[str, Any]) -> Replica:
    # The fields are those of this version, whichever version wrote them.
    said, _ = read_report(orjson.dumps(record.get("said")).decode())
    return Replica(
        int(record["position"]), str(record["root"]), float(record["at"]), str(record["address"]),
        said, via=tuple(map(str, record.get("via", ()))),
    )  # fmt: skip
