"""Replicas behind replicas count: on the primary's map, and for the acknowledgement of writes."""

from __future__ import annotations

import time
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.builders import legacy_form, wheel
from tests.functional.helpers import ROOT_PASSWORD, check_same_roots, upload
from tests.functional.test_joining import invite, joining, revoke, uuid
from tests.processes import Cluster, Node, basic, eventually, free_port, http

pytestmark = [pytest.mark.functional]


def rows(primary: Node) -> dict[str, dict[str, Any]]:
    """The primary's map, by uuid."""
    return {row["uuid"]: row for row in primary.status()["replicas"]}


def is_well(primary: Node, node: Node, *via: Node) -> bool:
    """Whether the map shows a node as in sync, behind these replicas."""
    status = primary.status()
    row = {one["uuid"]: one for one in status["replicas"]}.get(uuid(node), {})
    return bool(
        row.get("healthy")
        and row["via"] == [uuid(one) for one in via]
        and (row["state"], row["position"]) == ("in-sync", status["serial"])
        and (row["root"], row["lag_entries"]) == (status["root"], 0)
    )


def test_a_chain_acknowledges(nodes: Cluster) -> None:
    """With --sync-replicas 3 an upload waits for all of a chain, whose map is whole; it is not
    acknowledged while the end is away."""
    primary = nodes.primary(None, "--sync-replicas", "3", root_password=ROOT_PASSWORD)
    chain = [primary]
    for name in ("one", "two", "three"):
        chain.append(nodes.replica(chain[-1], name, "--files", "full", "--region", name))
    _, one, two, three = chain
    primary.put_index("root/dev", ROOT_PASSWORD, type="stage")
    taken = []
    for number in range(5):
        before = time.monotonic()
        assert upload(primary, "root/dev", wheel("demo", f"1.{number}")).status == 200
        taken.append(time.monotonic() - before)
    assert min(taken) < 2.0, taken  # nobody waited for the next poll, or for a timer
    eventually(lambda: is_well(primary, three, two, one), 10, "the map is whole")
    assert is_well(primary, two, one)
    assert is_well(primary, one)
    found = rows(primary)[uuid(three)]
    assert (found["files_in_sync"], found["region"], found["hint"]) == (True, "three", None)
    assert found["files_position"] == primary.status()["serial"]
    assert three.status()["primary"]["via"] == [uuid(two), uuid(one)]
    samples = [
        sample
        for family in text_string_to_metric_families(primary.get("/+metrics").body.decode())
        for sample in family.samples
        if sample.name == "pymirror_replica_healthy"
    ]
    assert {s.labels["replica"]: s.value for s in samples} == {
        uuid(one): 1, uuid(two): 1, uuid(three): 1,
    }  # fmt: skip
    two.kill()
    eventually(lambda: not rows(primary)[uuid(two)]["healthy"], 10, "the loss of two is seen")
    assert not rows(primary)[uuid(three)]["healthy"]
    late = wheel("demo", "2.0")
    content_type, body = legacy_form(late)
    headers = {**basic("root", ROOT_PASSWORD), "Content-Type": content_type}
    with pytest.raises(TimeoutError):
        primary.request("POST", "/root/dev/", body=body, headers=headers, timeout=3.0)
    two.start()
    check_same_roots(chain, seconds=20)
    assert upload(primary, "root/dev", late).status == 200


def test_a_relay_cannot_speak_for_others(nodes: Cluster) -> None:
    """With --require-node-keys what a node says through others is signed by its own key, and who
    was revoked counts no more."""
    primary = nodes.primary(None, "--require-node-keys", root_password=ROOT_PASSWORD)
    options = ("--require-node-keys", "--files", "full")
    one = joining(nodes, primary, invite(primary), "one", *options).start()
    two = joining(nodes, one, invite(primary), "two", *options).start()
    primary.put_index("root/dev", ROOT_PASSWORD, type="stage", sync_replicas=2)
    assert upload(primary, "root/dev", wheel("demo", "1.0")).status == 200
    eventually(lambda: is_well(primary, two, one), 10, "two is on the map")
    assert revoke(primary, two).status == 200
    eventually(lambda: uuid(two) not in rows(primary), 5, "it is off the map")


def listens(primary: Node, *more: int) -> None:
    """Start a primary again that listens on these ports beside its own."""
    primary.terminate()
    command = list(primary._command)
    while command.count("--listen") > 1:
        del command[-2:]
    for port in more:
        command += ["--listen", f"tcp:{port}:interface=127.0.0.1"]
    primary._command = command
    primary.start()


def follows(node: Node) -> tuple[str, list[str]]:
    """Whom a replica follows, and the replicas between it and the primary."""
    primary = node.status()["primary"]
    return primary["url"], primary["via"]


def test_moves_to_the_primary(nodes: Cluster) -> None:
    """A replica with two URLs goes from one that is dead to the primary, stays with a replica
    while it finds nothing better, and goes from it to the primary once that is reached."""
    primary = nodes.primary(root_password=ROOT_PASSWORD)
    primary.put_index("root/dev", ROOT_PASSWORD, type="stage", sync_replicas=2)
    one = nodes.replica(primary, "one", "--files", "full")
    other = free_port()  # where the primary will be reached later
    urls = ["--primary-url", f"http://127.0.0.1:{other}"]
    two = nodes.replica(one, "two", "--files", "full", *urls)
    assert upload(primary, "root/dev", wheel("demo", "1.0")).status == 200
    eventually(lambda: is_well(primary, two, one), 10, "two is behind one")
    one.kill()
    listens(primary, other)
    eventually(lambda: is_well(primary, two), 20, "two is at the primary")
    one.start()
    assert upload(primary, "root/dev", wheel("demo", "2.0")).status == 200
    assert is_well(primary, two)
    listens(primary)
    eventually(lambda: is_well(primary, two, one), 30, "two is behind one again")
    assert upload(primary, "root/dev", wheel("demo", "3.0")).status == 200
    listens(primary, other)
    found: tuple[str, list[str]] = (f"http://127.0.0.1:{other}", [])
    eventually(lambda: follows(two) == found, 60, "two has looked for the primary")
    assert is_well(primary, two)
    assert one.status()["follower"]["state"] == "in-sync"


def test_files_come_through_a_lazy_replica(nodes: Cluster) -> None:
    """A replica that keeps all uploads gets them through one that keeps none."""
    primary = nodes.primary(root_password=ROOT_PASSWORD)
    primary.put_index("root/dev", ROOT_PASSWORD, type="stage")
    one = nodes.replica(primary, "one")
    two = nodes.replica(one, "two", "--files", "full")
    built = wheel("demo", "1.0", size=300_000)
    assert upload(primary, "root/dev", built).status == 200
    serial = primary.status()["serial"]

    def has_it() -> bool:
        return bool(two.status()["in_sync"]["files_position"] >= serial)

    eventually(has_it, 5, "two has the file")
    for node in (primary, one):
        node.kill()
    assert http("GET", two.file_urls("root/dev", "demo")[built.filename]).body == built.data
