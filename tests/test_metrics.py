"""Counting requests, what is exported of that and of the status, and the map of the replicas."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
import pytest_twisted
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from cluster.hints import HINTS, hint, replica_hint
from cluster.metrics import RequestCounts, kind_of
from cluster.state.database import Database, open_engine
from cluster.state.position import Head, Position
from cluster.state.rows import Touched
from cluster.threads import Inline
from cluster.web.metrics import metrics_reply
from primary import remembered
from primary.followers import Followers
from primary.remembered import FORGET_SECONDS, WRITE_SECONDS, Remembered
from primary.reports import MOST_CHARACTERS, read_report
from replica.following import State
from tests import fakes
from tests.fakes import NOW


@pytest.mark.parametrize(
    ("method", "path", "kind"),
    [
        (b"GET", b"/root/pypi/+simple/demo/", "page"), (b"HEAD", b"/root/pypi/+simple/", "list"),
        (b"GET", b"/root/pypi/+f/abc/0123456789abc/demo-1.0.whl", "file"),
        (b"GET", b"/root/pypi/+e/abc/0123456789abc/demo-1.0.whl", "file"),
        (b"GET", b"/+log/tail", "log"), (b"GET", b"/+status", "node"),
        (b"POST", b"/+node/refresh", "node"), (b"PUT", b"/root/dev", "write"),
        (b"GET", b"/root/dev", "other"), (b"GET", b"/", "other"),
    ],
)  # fmt: skip
def test_kinds(method: bytes, path: bytes, kind: str) -> None:
    """Each request is of one kind."""
    assert kind_of(method, path) == kind


def status(**more: Any) -> dict[str, Any]:
    return {
        "serial": 7, "epoch": 1, "ready": True, "rss_bytes": 1_000, "uptime_seconds": 3,
        "files": {"count": 1, "bytes": 2, "hits": 3, "misses": 4, "bytes_saved": 5},
        "pages": {"cached_bytes": 6},
        "upstreams": {"root/pypi": {"requests": 9, "failures": 2, "failing": {"a": {}}}}, **more,
    }  # fmt: skip


def exported(document: dict[str, Any], counts: RequestCounts) -> dict[tuple[str, ...], float]:
    text = metrics_reply(document, counts).body.decode()
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_export() -> None:
    """Counts and status come out in Prometheus' format, readable by its own parser."""
    counts = RequestCounts(hot=2, pages=10, pages_unchanged=20)
    for code in (200, 200, 304, 404):
        counts.count(b"GET", b"/root/pypi/+simple/demo/", code)
    counts.count(b"POST", b"/root/dev/", 200, is_upload=True)
    row = {
        "uuid": "r", "outside_url": None, "position": 5, "lag_entries": 2, "lag_seconds": 0.5,
        "last_contact_seconds": 1.0, "healthy": True,
    }  # fmt: skip
    triggers = [{"pending": 2}, {"pending": 3}]
    found = exported(status(replicas=[row], triggers=triggers), counts)
    assert found["pymirror_requests_total", "page", "2xx"] == 12
    assert found["pymirror_requests_total", "page", "3xx"] == 21
    assert found["pymirror_requests_total", "page", "4xx"] == 1
    assert found[("pymirror_requests_hot_total",)] == 2
    assert found[("pymirror_uploads_total",)] == 1
    assert found[("pymirror_position",)] == 7
    assert found[("pymirror_file_misses_total",)] == 4
    assert found["pymirror_upstream_failures_total", "root/pypi"] == 2
    assert found["pymirror_upstream_failing", "root/pypi"] == 1
    assert found["pymirror_replica_lag_seconds", "r", ""] == 0.5
    assert found["pymirror_replica_healthy", "r", ""] == 1
    assert found[("pymirror_triggers_pending",)] == 5
    follower = {"state": "in-sync", "lag_entries": 1, "lag_seconds": 0.25, "failures": 0}
    found = exported(status(follower=follower, in_sync={"files_missing": None}), counts)
    assert found["pymirror_follower_state", "in-sync"] == 1
    assert found[("pymirror_lag_seconds",)] == 0.25
    assert ("pymirror_files_missing",) not in found


def test_export_of_troubles() -> None:
    """What is worth an alarm comes out: a fenced primary, rotten files, a cache that churns."""
    cache = {"limit_bytes": 900, "used_bytes": 800, "evicted": 7, "evicted_bytes": 70}
    scrub = {"checked": 50, "damaged": 3, "unmended": [{"sha256": "a"}, {"sha256": "b"}]}
    fenced = {"epoch": 2, "primary_url": None}
    document = status(cache=cache, scrub=scrub, fenced=fenced, in_sync={"files_position": 6})
    found = exported(document, RequestCounts())
    assert {name.removeprefix("pymirror_"): value for (name, *_), value in found.items()
            if name.startswith(("pymirror_cache", "pymirror_scrub"))} == {
        "cache_limit_bytes": 900, "cache_used_bytes": 800, "cache_evicted_total": 7,
        "cache_evicted_bytes_total": 70, "scrub_checked_total": 50, "scrub_damaged_total": 3,
        "scrub_unmended": 2,
    }  # fmt: skip
    assert (found[("pymirror_fenced",)], found[("pymirror_files_position",)]) == (1, 6)
    well = exported(
        status(cache={**cache, "limit_bytes": None}, scrub={**scrub, "unmended": []}, fenced=None),
        RequestCounts(),
    )
    assert (well[("pymirror_fenced",)], well[("pymirror_scrub_unmended",)]) == (0, 0)
    assert ("pymirror_cache_limit_bytes",) not in well
    assert ("pymirror_fenced",) not in exported(status(), RequestCounts())


def test_hints() -> None:
    """Each state of a follower has its hint, and only being in sync needs nothing done."""
    assert {state.value for state in State} == set(HINTS)
    assert [state for state, text in HINTS.items() if text is None] == ["in-sync"]
    assert "unknown" in (hint("new-state") or "")
    assert "poll" in (replica_hint("in-sync", is_lost=True, is_behind=False) or "")
    assert "behind" in (replica_hint("catching-up", is_lost=False, is_behind=True) or "")


class Times:
    """A clock that is set."""

    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> float:
        return self.now


def head(serial: int) -> Head:
    return Head(serial, 1, bytes([serial]) * 32, None)


def followers(times: Times, memory: Remembered | None = None) -> tuple[Followers, Position]:
    position = fakes.position()
    position.advance(head(5), Touched())
    return Followers(position, times, memory), position


SAID = orjson.dumps(
    {"state": "in-sync", "ready": True, "region": "eu", "state_since": NOW}
).decode()


def row(of: Followers) -> dict[str, Any]:
    (only,) = of.document()
    return only


def test_lag() -> None:
    """A replica at the head has no lag; of one that was, it counts since the first entry that it
    lacks; of one that never was, since its first poll."""
    times = Times()
    map_, position = followers(times)
    map_.heard("r", 5, SAID, "192.0.2.1", "root")
    times.now += 20
    assert row(map_)["lag_seconds"] == 0
    position.advance(head(6), Touched())
    times.now += 3
    position.advance(head(8), Touched())
    assert (row(map_)["lag_seconds"], row(map_)["lag_entries"]) == (3, 3)
    map_.heard("r", 7, SAID, "192.0.2.1", "root")
    times.now += 40
    map_.heard("r", 7, SAID, "192.0.2.1", "root")
    assert row(map_)["lag_seconds"] == 40
    assert not row(map_)["healthy"]
    map_.heard("r", 8, SAID, "192.0.2.1", "root")
    assert row(map_)["lag_seconds"] == 0
    assert row(map_)["healthy"]


def test_diverged() -> None:
    """A replica whose root is not in the log is marked, with since when and what to do, until it
    comes with another position or root."""
    times = Times()
    map_, _ = followers(times)
    map_.heard("r", 4, SAID, "192.0.2.1", "other root")
    map_.refused("r", "not my root")
    times.now += 10
    map_.heard("r", 4, SAID, "192.0.2.1", "other root")
    map_.refused("r", "not my root")
    found = row(map_)
    assert (found["state"], found["error"], found["healthy"]) == ("diverged", "not my root", False)
    assert found["state_since"] == "2023-11-14T22:13:20Z"
    assert "verify" in found["hint"]
    map_.heard("r", 5, SAID, "192.0.2.1", "root")
    assert (row(map_)["state"], row(map_)["healthy"]) == ("in-sync", True)


def test_lost() -> None:
    """A broken poll is noticed after seconds, silence after a minute; the next poll heals both."""
    times = Times()
    map_, _ = followers(times)
    map_.heard("r", 5, SAID, "192.0.2.1")
    map_.lost("r")
    map_.lost("nobody")
    assert row(map_)["healthy"]
    times.now += 4
    assert not row(map_)["healthy"]
    assert "poll" in row(map_)["hint"]
    map_.heard("r", 5, SAID, "192.0.2.1")
    assert row(map_)["healthy"]
    times.now += 61
    assert not row(map_)["healthy"]
    times.now += FORGET_SECONDS
    assert map_.document() == []


@pytest_twisted.ensureDeferred
async def test_remembered(tmp_path: Any) -> None:
    """A restarted primary knows its replicas, but for revoked ones and those of a month ago."""
    engine = open_engine(tmp_path / "local.sqlite", remembered.metadata, durable=False)
    database, times = Database(engine, Inline(), Inline()), Times()
    map_, _ = followers(times, Remembered(database, times))
    for node in ("a", "b", "c"):
        map_.heard(node, 5, SAID, "192.0.2.1", "root")
    map_.forget("b")
    times.now += WRITE_SECONDS - 1
    map_.heard("a", 5, "{}", "192.0.2.2", "root")  # not written: that was just now
    again, _ = followers(times, Remembered(database, times))
    await again.load()
    found = again.document()
    assert [one["uuid"] for one in found] == ["a", "c"]
    assert (found[0]["address"], found[0]["region"]) == ("192.0.2.1", "eu")
    assert found[0]["last_contact_seconds"] == WRITE_SECONDS - 1
    times.now += FORGET_SECONDS
    last, _ = followers(times, Remembered(database, times))
    await last.load()
    assert last.document() == []
    engine.dispose()


@given(st.text() | st.binary().map(lambda b: b.decode("latin-1")) | st.none())
def test_any_report(header: str | None) -> None:
    """Whatever a replica says, all fields are there, and what is not understood is null."""
    assert set(read_report(header)[0].values()) == {None} or header


@given(
    st.dictionaries(
        st.sampled_from(sorted(read_report(None)[0])),
        st.none() | st.booleans() | st.integers() | st.floats() | st.text()
        | st.lists(st.text() | st.just("10.0.0.0/8")),
    )
)  # fmt: skip
def test_any_field(said: dict[str, Any]) -> None:
    """No value of a field gets through that others could not take."""
    try:
        header = orjson.dumps(said).decode()
    except TypeError:  # an integer that JSON cannot hold
        return
    found, _ = read_report(header)
    assert set(found) == set(read_report(None)[0])
    orjson.dumps(found)
    assert len(found["outside_url"] or "") <= 300
    assert len(found["error"] or "") <= 200
    map_, _ = followers(Times())
    map_.heard("r", 5, header, "192.0.2.1")
    assert row(map_)["uuid"] == "r"


def test_a_long_report() -> None:
    """What a replica with the most networks says fits into the header."""
    networks = [f"2001:db8:{n:x}:ffff:ffff:ffff:ffff:ff00/120" for n in range(32)]
    said = {"networks": networks, "error": "\u2603" * 200, "outside_url": "http://" + "h" * 250}
    header = orjson.dumps(said).decode()
    assert len(header) < MOST_CHARACTERS - 500
    assert len(read_report(header)[0]["networks"]) == 32
