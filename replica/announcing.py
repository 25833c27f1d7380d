"""What a replica says of itself: to the primary with each poll, and as a node to hand out."""

from __future__ import annotations

from typing import Any

from attrs import define, field

from cluster.clock import Clock
from cluster.load import busy
from cluster.parts import Parts
from cluster.version import __version__
from cluster.web.status import rss_bytes
from replica.following import Following, document

_ERROR_CHARACTERS = 200
_VITAL_SECONDS = 1.0


@define
class Vitals:
    """What this machine and process use, read at most once a second: every poll tells it."""

    _clock: Clock
    _read_at: float = float("-inf")
    _known: dict[str, Any] = field(factory=dict)

    def document(self) -> dict[str, Any]:
        """The load of the machine, and this process's memory in bytes."""
        now = self._clock.seconds()
        if now - self._read_at >= _VITAL_SECONDS:
            self._read_at, self._known = now, {"load": busy(), "rss_bytes": rss_bytes()}
        return self._known


def announced(parts: Parts, following: Following, vitals: Vitals) -> dict[str, Any]:
    """What every poll says of where this node is and how it does; times in seconds since 1970."""
    settings = parts.settings
    has_failed = following.failures > 0
    return {
        "outside_url": settings.outside_url,
        "version": __version__,
        "state": following.state.value,
        "state_since": following.since,
        "ready": following.caught_up_once,
        "error": (following.last_error or "")[:_ERROR_CHARACTERS] if has_failed else None,
        "error_at": following.last_error_at if has_failed else None,
        "region": settings.region,
        "networks": [str(network) for network in settings.networks],
        "weight": settings.weight,
        **vitals.document(),
    }


def own_node(parts: Parts, following: Following, now: float) -> dict[str, Any]:
    """This node as an entry of the list of nodes, as it is now."""
    settings, position = parts.settings, parts.position.serial
    lag = document(following, position, now)
    return {
        "uuid": parts.uuid,
        "role": "replica",
        "url": settings.outside_url,
        "region": settings.region,
        "networks": [str(network) for network in settings.networks],
        "weight": settings.weight,
        "state": following.state.value,
        "ready": following.caught_up_once,
        "position": position,
        "lag_entries": lag["lag_entries"],
        "lag_seconds": lag["lag_seconds"],
        "load": busy(),
        "last_contact_seconds": 0.0,
    }
