"""GET /+status and GET /+ready: what an operator and a load balancer read. See docs/status.md."""

from __future__ import annotations

import base64
import os
import resource
from collections.abc import Callable, Mapping
from typing import Any

from attrs import define, frozen

from cluster.files.sources import Wanted
from cluster.files.store import FileStore
from cluster.simple.cache import PageCache
from cluster.state.position import Position
from cluster.upstream.health import UpstreamHealth, iso
from cluster.version import __version__
from cluster.web.devpistatus import devpi_status, listening_on

_MAX_FAILURES = 50


@frozen
class LogIdentity:
    """Which log a node holds: its uuid and the public key (base64) of its first epoch."""

    log: str
    key: str


@define
class FileFailures:
    """The last failed attempts to get a file, newest last."""

    _now: Callable[[], float]
    _recent: list[dict[str, Any]]

    def failed(self, source: str, filename: str, reason: str) -> None:
        """An attempt to get a file from a source failed."""
        entry = {"at": iso(self._now()), "file": filename, "source": source, "error": reason}
        self._recent.append(entry)
        del self._recent[:-_MAX_FAILURES]

    def fetch_failed(self, source: str, wanted: Wanted, reason: str) -> None:
        """As `failed`, for a `Fetcher`."""
        self.failed(source, wanted.filename, reason)

    @property
    def recent(self) -> list[dict[str, Any]]:
        """The failures that are remembered."""
        return list(self._recent)


@define
class StatusDocument:
    """Puts together what each part of a node says of itself.

    `more` is the part of the document that only this kind of node has; `identity` is None until
    a replica has met its primary; `ready` gives the reason why the node is not ready, or None;
    `listen` is the first endpoint that it listens on.
    """

    role: str
    uuid: str
    outside_url: str | None
    position: Position
    identity: Callable[[], LogIdentity | None]
    store: FileStore
    pages: PageCache
    upstreams: UpstreamHealth
    failures: FileFailures
    fetching: Callable[[], int]
    ready: Callable[[], str | None]
    more: Callable[[], Mapping[str, Any]]
    warnings: Callable[[], list[str]]
    listen: str
    started_at: float
    now: Callable[[], float]

    def document(self) -> dict[str, Any]:
        """The whole status: ours, and in `result` what devpi's has."""
        ours = self._ours()
        return {**ours, "type": "status", "result": devpi_status(ours, *listening_on(self.listen))}

    def _ours(self) -> dict[str, Any]:
        head, identity = self.position.head, self.identity()
        counters = self.store.counters
        return {
            "role": self.role,
            "uuid": self.uuid,
            "version": __version__,
            "outside_url": self.outside_url,
            "ready": self.ready() is None,
            "log_identity": identity and {"log": identity.log, "key": identity.key},
            "epoch": head.epoch,
            "serial": head.serial,
            "root": base64.b64encode(head.root).decode(),
            "last_change_at": head.time,
            "warnings": self.warnings(),
            **self.more(),
            "upstreams": self.upstreams.document(),
            "files": {
                "count": counters.count,
                "bytes": counters.bytes,
                "counted": counters.scanned,
                "hits": counters.hits,
                "misses": counters.misses,
                "bytes_saved": counters.bytes_saved,
                "fetching": self.fetching(),
                "failures": self.failures.recent,
            },
            "pages": {"cached_bytes": self.pages.used_bytes},
            "started_at": iso(self.started_at),
            "uptime_seconds": int(self.now() - self.started_at),
            "rss_bytes": rss_bytes(),
        }


def rss_bytes() -> int:
    """This process's resident memory in bytes; the peak where /proc does not tell the present."""
    try:
        # Each poll tells it: without Python's layers of files this takes a tenth of the time.
        statm = os.open("/proc/self/statm", os.O_RDONLY)
        try:
            pages = int(os.read(statm, 200).split()[1])
        finally:
            os.close(statm)
    except (OSError, ValueError, IndexError):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return pages * resource.getpagesize()
