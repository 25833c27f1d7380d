"""GET /+metrics: the node's numbers in Prometheus' text format, made when they are asked for.

Everything that counts does so with plain integers; this module reads those and the status
document. Names are in docs/status.md.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from attrs import define

from cluster.metrics import RequestCounts
from cluster.web.replies import Reply

METRICS_PATH: Final = "/+metrics"
_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"

# Name, help, and where the value is in the status document.
_GAUGES: Final = (
    ("position", "Last entry of the log that is applied here.", "serial"),
    ("epoch", "Epoch of the last entry.", "epoch"),
    ("file_count", "Files in the store.", "files.count"),
    ("file_fetches", "Fetches under way.", "files.fetching"),
    ("file_store_bytes", "Size of the files in the store.", "files.bytes"),
    ("disk_free_bytes", "Free on the disk of the state folder.", "disk.free_bytes"),
    ("disk_floor_bytes", "With less of it free, uploads are refused.", "disk.floor_bytes"),
    ("page_cache_bytes", "Rendered pages in memory.", "pages.cached_bytes"),
    ("rss_bytes", "Resident memory of the process.", "rss_bytes"),
    ("uptime_seconds", "Since the start of the process.", "uptime_seconds"),
    ("primary_serial", "Head of the primary as far as known.", "primary.serial"),
    ("lag_entries", "Entries that the primary has and that are not here.", "follower.lag_entries"),
    ("lag_seconds", "Since this replica was in sync.", "follower.lag_seconds"),
    ("follower_failures", "Failed attempts to follow in a row.", "follower.failures"),
    ("files_missing", "Uploaded files that are not here.", "in_sync.files_missing"),
    ("files_position", "All uploads up to it are durably here.", "in_sync.files_position"),
    ("cache_limit_bytes", "Bound of the files that others have too.", "cache.limit_bytes"),
    ("cache_used_bytes", "Size of the files that others have too.", "cache.used_bytes"),
)
_COUNTERS: Final = (
    ("file_hits", "Answers with a file from the store.", "files.hits"),
    ("file_misses", "Requests that needed a fetch.", "files.misses"),
    ("file_saved_bytes", "Sent from the store, which no source had to send.", "files.bytes_saved"),
    ("cache_evicted", "Files taken away because the cache was full.", "cache.evicted"),
    ("cache_evicted_bytes", "Size of the files taken away.", "cache.evicted_bytes"),
    ("scrub_checked", "Files hashed again.", "scrub.checked"),
    ("scrub_damaged", "Files that were not what their name says.", "scrub.damaged"),
)
_REPLICA_GAUGES: Final = (
    ("replica_position", "Last entry that a replica had applied.", "position"),
    ("replica_lag_entries", "Entries that a replica is behind.", "lag_entries"),
    ("replica_lag_seconds", "How long a replica has been behind.", "lag_seconds"),
    ("replica_last_contact_seconds", "Since a replica's last poll.", "last_contact_seconds"),
    ("replica_healthy", "1 if clients may be sent to the replica.", "healthy"),
)


@define(eq=False)
class Metrics:
    """A collector for prometheus-client, of one moment."""

    _status: Mapping[str, Any]
    _counts: RequestCounts

    def collect(self) -> Iterator[Any]:
        """All metrics of this node."""
        yield from self._plain()
        yield from self._requests()
        yield from self._upstreams()
        if "follower" in self._status:
            yield self._state(self._status["follower"]["state"])
        if "replicas" in self._status:
            yield from self._replicas(self._status["replicas"])
        if "fenced" in self._status:
            is_fenced = self._status["fenced"] is not None
            yield _gauge(
                "fenced", "1 if it takes no writes: replaced, split or restored.", is_fenced
            )
        if "triggers" in self._status:
            pending = sum(one["pending"] for one in self._status["triggers"])
            yield _gauge("triggers_pending", "Events that are not delivered yet.", pending)

    def _plain(self) -> Iterator[Any]:
        yield _gauge("ready", "1 as /+ready says 200.", self._status["ready"])
        for name, text, path in _GAUGES:
            value = _at(self._status, path)
            if value is not None:
                yield _gauge(name, text, value)
        unmended = len(_at(self._status, "scrub.unmended") or ())
        yield _gauge("scrub_unmended", "Damaged files that nobody could give yet.", unmended)
        for name, text, path in _COUNTERS:
            yield _counter(name, text, _at(self._status, path) or 0)

    def _requests(self) -> Iterator[Any]:
        family = _counter("requests", "Answered requests.", None, "kind", "status")
        for (kind, status), number in sorted(self._counts.by_kind.items()):
            family.add_metric([kind, f"{status}xx"], number)
        yield family
        yield _counter("requests_hot", "Requests answered from memory.", self._counts.hot)
        uploads = self._counts.by_kind.get(("upload", 2), 0)
        yield _counter("uploads", "Uploads that were taken.", uploads)

    def _upstreams(self) -> Iterator[Any]:
        asked = _counter("upstream_requests", "Questions to upstreams.", None, "index")
        failed = _counter("upstream_failures", "Those without a useful answer.", None, "index")
        failing = _gauge("upstream_failing", "Projects whose last question failed.", None, "index")
        for index, upstream in self._status["upstreams"].items():
            asked.add_metric([index], upstream["requests"])
            failed.add_metric([index], upstream["failures"])
            failing.add_metric([index], len(upstream["failing"]))
        yield from (asked, failed, failing)

    def _state(self, state: str) -> Any:
        family = _gauge("follower_state", "1 for the follower's state.", None, "state")
        family.add_metric([state], 1)
        return family

    def _replicas(self, replicas: list[dict[str, Any]]) -> Iterator[Any]:
        yield _gauge("replicas", "Replicas that are known.", len(replicas))
        for name, text, key in _REPLICA_GAUGES:
            family = _gauge(name, text, None, "replica", "url")
            for one in replicas:
                family.add_metric([one["uuid"], one["outside_url"] or ""], float(one[key]))
            yield family


def metrics_reply(status: Mapping[str, Any], counts: RequestCounts) -> Reply:
    """The answer to `GET /+metrics`."""
    # Imported here alone: who is never scraped need not hold it in memory.
    from prometheus_client import CollectorRegistry
    from prometheus_client.exposition import generate_latest

    registry = CollectorRegistry(auto_describe=False)
    registry.register(Metrics(status, counts))
    body = generate_latest(registry)
    return Reply(200, body, _TYPE, {"Cache-Control": "no-store"})


def _gauge(name: str, text: str, value: float | None, *labels: str) -> Any:
    from prometheus_client.core import GaugeMetricFamily

    return GaugeMetricFamily(f"pymirror_{name}", text, value=value, labels=labels or None)


def _counter(name: str, text: str, value: float | None, *labels: str) -> Any:
    from prometheus_client.core import CounterMetricFamily

    return CounterMetricFamily(f"pymirror_{name}", text, value=value, labels=labels or None)


def _at(document: Mapping[str, Any], path: str) -> Any:
    value: Any = document
    for key in path.split("."):
        if not isinstance(value, Mapping) or key not in value:
            return None
        value = value[key]
    return value
