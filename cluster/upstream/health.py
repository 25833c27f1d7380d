"""How each upstream does, for the status document: last success, last error, what fails."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from attrs import define, field

from cluster.names import IndexName

_FAILING_SHOWN = 100


def iso(seconds: float | None) -> str | None:
    """Seconds since 1970 as RFC 3339 in UTC."""
    if seconds is None:
        return None
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


@define
class _Upstream:
    last_success: float | None = None
    last_error: str | None = None
    last_error_at: float | None = None
    requests: int = 0
    failures: int = 0
    failing: OrderedDict[str, dict[str, Any]] = field(factory=OrderedDict)


@define
class UpstreamHealth:
    """Facts by mirror index. A project leaves `failing` with its next success."""

    _now: Callable[[], float]
    _upstreams: dict[IndexName, _Upstream] = field(factory=dict)

    def succeeded(self, index: IndexName, what: str) -> None:
        """The upstream answered about a project, a file or (empty name) the project list."""
        upstream = self._upstreams.setdefault(index, _Upstream())
        upstream.requests += 1
        upstream.last_success = self._now()
        upstream.failing.pop(what or "(project list)", None)

    def failed(self, index: IndexName, what: str, error: str) -> None:
        """The upstream gave no usable answer."""
        upstream = self._upstreams.setdefault(index, _Upstream())
        upstream.requests += 1
        upstream.failures += 1
        upstream.last_error, upstream.last_error_at = error, self._now()
        name = what or "(project list)"
        since = upstream.failing.get(name, {}).get("since", iso(self._now()))
        upstream.failing[name] = {"error": error, "since": since, "last": iso(self._now())}
        upstream.failing.move_to_end(name)
        while len(upstream.failing) > _FAILING_SHOWN:
            upstream.failing.popitem(last=False)

    def document(self) -> dict[str, Any]:
        """The `upstreams` part of the status document."""
        return {
            name: {
                "last_success": iso(upstream.last_success),
                "last_error": upstream.last_error,
                "last_error_at": iso(upstream.last_error_at),
                "requests": upstream.requests,
                "failures": upstream.failures,
                "failing": dict(upstream.failing),
            }
            for name, upstream in sorted(self._upstreams.items())
        }
