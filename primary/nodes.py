"""GET /+nodes: every node of the cluster, for nodes alone: sources of files, nearest replica."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from attrs import define

from cluster.load import busy
from cluster.nearest import PRIMARY
from cluster.options import NodeSettings
from cluster.state.position import Position
from cluster.web.identity import Identity
from cluster.web.replies import Reply, json_reply
from cluster.web.request import NodeRequest
from primary.followers import Followers

_TOLD = (
    "uuid", "region", "networks", "weight", "state", "ready", "position", "lag_entries",
    "lag_seconds", "load", "last_contact_seconds", "lost_seconds", "healthy", "via",
)  # fmt: skip


@define
class Nodes:
    """The primary and all replicas that it knows of."""

    _uuid: str
    _settings: NodeSettings
    _position: Position
    _followers: Followers
    _identity: Identity
    _load: Callable[[], float] = busy

    def listed(self) -> list[dict[str, Any]]:
        """The primary first, then the replicas; `url` is null where none was announced."""
        replicas = [
            {"role": "replica", "url": row["outside_url"], **{key: row[key] for key in _TOLD}}
            for row in self._followers.document()
        ]
        return [self._own(), *replicas]

    def reply(self, request: NodeRequest) -> Reply:
        """The answer to `GET /+nodes`; raises AuthenticationRequired."""
        self._identity.require_node(request)
        return json_reply(self.listed(), headers={"Cache-Control": "no-store"})

    def _own(self) -> dict[str, Any]:
        settings = self._settings
        return {
            "role": PRIMARY, "url": settings.outside_url, "uuid": self._uuid,
            "region": settings.region, "networks": [str(n) for n in settings.networks],
            "weight": settings.weight, "state": "in-sync", "ready": True,
            "position": self._position.serial, "lag_entries": 0, "lag_seconds": 0.0,
            "load": self._load(), "last_contact_seconds": 0.0, "lost_seconds": None,
            "healthy": True, "via": [],
        }  # fmt: skip
