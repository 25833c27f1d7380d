"""The part of /+status that tools made for devpi read (devpi-api §9)."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from typing import Any

from cluster.version import __version__


def devpi_status(status: Mapping[str, Any], listen_host: str, listen_port: int) -> dict[str, Any]:
    """devpi's fields, out of ours. `listen_…` is the first address that the node listens on."""
    common = {
        "uuid": status["uuid"],
        "versioninfo": {"pymirror": __version__, "python": platform.python_version()},
        "server-code": "pymirror",
        "host": listen_host,
        "port": listen_port,
        "outside-url": status["outside_url"],
        "serial": status["serial"],
        "last-commit-timestamp": status["last_change_at"],
        "event-serial": status["serial"],
        "event-serial-timestamp": status["last_change_at"],
        "event-serial-in-sync-at": status["last_change_at"],
        "metrics": _metrics(status),
    }
    if status["role"] == "primary":
        return {**common, "role": "MASTER", "polling_replicas": _replicas(status)}
    return {**common, "role": "REPLICA", "polling_replicas": {}, **_following(status)}


def _following(status: Mapping[str, Any]) -> dict[str, Any]:
    primary, in_sync = status["primary"], status["in_sync"]
    facts = {
        "url": primary["url"],
        "uuid": (status["log_identity"] or {}).get("log"),
        "serial": primary["serial"],
        "contacted-at": primary["last_contact"],
    }
    error = status["follower"].get("last_error")
    return {
        **{f"primary-{field}": value for field, value in facts.items()},
        **{f"master-{field}": value for field, value in facts.items()},
        "replica-started-at": status["started_at"],
        "replica-in-sync-at": in_sync["metadata_at"],
        "replica-metadata-in-sync-at": in_sync["metadata_at"],
        "replication-errors": {} if error is None else {"follower": {"message": error}},
    }


def _replicas(status: Mapping[str, Any]) -> dict[str, Any]:
    return {
        replica["uuid"]: {
            "remote-ip": replica["address"],
            "serial": replica["position"],
            "last-request": replica["last_contact"],
            "outside-url": replica.get("outside_url"),
        }
        for replica in status.get("replicas", ())
    }


def _metrics(status: Mapping[str, Any]) -> list[list[Any]]:
    files = status["files"]
    return [
        ["pymirror_files", "gauge", files["count"]],
        ["pymirror_file_bytes", "gauge", files["bytes"]],
        ["pymirror_file_hits", "counter", files["hits"]],
        ["pymirror_file_misses", "counter", files["misses"]],
        ["pymirror_page_cache_bytes", "gauge", status["pages"]["cached_bytes"]],
    ]


def listening_on(endpoint: str) -> tuple[str, int]:
    """Host and port of an endpoint such as ``tcp:3141:interface=127.0.0.1``; 0 when it has none."""
    parts = endpoint.split(":")
    port = int(parts[1]) if len(parts) > 1 and parts[1].isdigit() else 0
    host = next((p.partition("=")[2] for p in parts if p.startswith("interface=")), "0.0.0.0")  # noqa: S104
    return host, port
