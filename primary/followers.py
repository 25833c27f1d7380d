"""What replicas report of themselves with each poll: the primary's map of the cluster."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import orjson
from attrs import define, field, frozen

from cluster.state.position import Position
from cluster.upstream.health import iso

_MOST = 1_000
_REPORT_KEYS = ("outside_url", "version", "state", "files_in_sync", "cache_bytes")


@frozen
class Report:
    """One poll of one replica: its position, what it said of itself, when (seconds since 1970)."""

    position: int
    at: float
    address: str
    said: dict[str, Any]


@define
class Followers:
    """The last report of every replica that this process has heard of."""

    _position: Position
    _now: Callable[[], float]
    _reports: dict[str, Report] = field(factory=dict)
    _behind_since: dict[str, float] = field(factory=dict)

    def heard(self, node: str, position: int, header: str | None, address: str) -> None:
        """A replica polled; `header` is the JSON it sends of itself, which may be anything."""
        try:
            said = orjson.loads((header or "{}")[:4_096])
        except orjson.JSONDecodeError:
            said = {}
        known = {k: said[k] for k in _REPORT_KEYS if k in said} if isinstance(said, dict) else {}
        if node not in self._reports and len(self._reports) >= _MOST:
            del self._reports[min(self._reports, key=lambda uuid: self._reports[uuid].at)]
        self._reports[node] = Report(position, self._now(), address, known)
        if position >= self._position.serial:
            self._behind_since.pop(node, None)
        else:
            self._behind_since.setdefault(node, self._now())

    def document(self) -> list[dict[str, Any]]:
        """The `replicas` part of the primary's status document."""
        now = self._now()
        return [
            {
                "uuid": node,
                "address": report.address,
                "position": report.position,
                "lag_entries": max(0, self._position.serial - report.position),
                "lag_seconds": self._lag_seconds(node, report, now),
                "last_contact": iso(report.at),
                "last_contact_seconds": round(now - report.at, 3),
                **report.said,
            }
            for node, report in sorted(self._reports.items())
        ]

    def _lag_seconds(self, node: str, report: Report, now: float) -> float:
        if report.position >= self._position.serial:
            return 0.0
        return round(now - self._behind_since.get(node, report.at), 3)
