"""The map of the cluster: what /+status, /+metrics and pymirror status say of real nodes."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.builders import wheel
from tests.functional.helpers import ROOT_PASSWORD, upload, wait_visible
from tests.processes import CHECKOUT, Cluster, Node, eventually

pytestmark = pytest.mark.functional


def _rows(primary: Node) -> dict[str, dict[str, Any]]:
    return {row["uuid"]: row for row in primary.status()["replicas"]}


def _metrics(node: Node) -> dict[tuple[str, ...], float]:
    answer = node.get("/+metrics")
    assert answer.status == 200, answer
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(answer.body.decode())
        for sample in family.samples
    }


def _cli(url: str) -> tuple[int, dict[str, Any]]:
    done = subprocess.run(
        [str(Path(sys.executable).with_name("pymirror")), "status", url, "--json"],
        capture_output=True, timeout=60, check=False,
    )  # fmt: skip
    found: dict[str, Any] = json.loads(done.stdout)
    return done.returncode, found


def test_map(nodes: Cluster) -> None:
    """The primary's map follows what happens to its replicas, survives its restart, and the
    command's exit status says how the cluster is."""
    primary = nodes.primary(root_password=ROOT_PASSWORD)
    one = nodes.replica(primary, "one", "--region", "a", "--networks", "192.0.2.0/24")
    two = nodes.replica(primary, "two", "--region", "b", "--weight", "7")
    uuids = {node.status()["uuid"]: node for node in (one, two)}
    primary.put_index("root/dev", ROOT_PASSWORD, type="stage")
    built = wheel("demo", "1.0")
    assert upload(two, "root/dev", built).status == 200
    for node in (primary, one, two):
        wait_visible(node, "root/dev", built, 10)

    def in_sync() -> bool:
        status = primary.status()
        rows = status["replicas"]
        return len(rows) == 2 and all(
            row["healthy"] and row["state"] == "in-sync" and row["root"] == status["root"]
            for row in rows
        )

    eventually(in_sync, 10, "both in sync, with the primary's root")
    rows = _rows(primary)
    assert {row["region"] for row in rows.values()} == {"a", "b"}
    assert {row["weight"] for row in rows.values()} == {100, 7}
    assert [row["networks"] for row in rows.values() if row["region"] == "a"] == [["192.0.2.0/24"]]
    assert [row["hint"] for row in rows.values()] == [None, None]
    assert _cli(primary.url)[0] == 0
    assert _cli(one.url)[0] == 0

    found = _metrics(primary)
    assert found[("pymirror_uploads_total",)] == 1
    assert found[("pymirror_position",)] == primary.status()["serial"]
    assert sum(v for k, v in found.items() if k[0] == "pymirror_replica_healthy") == 2
    assert found["pymirror_requests_total", "page", "2xx"] >= 1
    assert (found[("pymirror_fenced",)], found[("pymirror_scrub_unmended",)]) == (0, 0)
    assert found[("pymirror_cache_evicted_total",)] == 0
    emitted = {key[0] for key in found}
    found = _metrics(two)
    assert found["pymirror_follower_state", "in-sync"] == 1
    assert found[("pymirror_lag_entries",)] == 0
    assert ("pymirror_files_position",) in found
    documented = set(re.findall(r"`(\w+)`", (CHECKOUT / "docs" / "status.md").read_text()))
    emitted |= {key[0] for key in found}
    assert {name.removeprefix("pymirror_") for name in emitted} <= documented

    two.kill()
    gone = next(uuid for uuid, node in uuids.items() if node is two)
    eventually(lambda: not _rows(primary)[gone]["healthy"], 10, "the loss of two is noticed")
    assert "poll" in _rows(primary)[gone]["hint"]
    code, document = _cli(one.url)
    assert (code, len(document["problems"])) == (1, 1)

    primary.kill()
    assert _cli(primary.url)[0] == 2
    code, document = _cli(one.url)
    assert code == 1
    assert any(problem["where"] == primary.url for problem in document["problems"])
    primary.start()
    assert _rows(primary)[gone]["region"] == "b"
    two.start()
    eventually(in_sync, 20, "all is well again")
    eventually(lambda: _cli(two.url)[0] == 0, 15, "and said so")
