"""Two owners of one epoch, with real processes: both stop as soon as one hears of the other."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.builders import wheel
from tests.functional.helpers import ROOT_PASSWORD, check_same_roots, upload
from tests.functional.test_promotion import command, orphans
from tests.processes import Cluster, Node, eventually, free_port

pytestmark = pytest.mark.functional

BOTH, ONE, OTHER, LATER = (wheel(name, "1.0") for name in ("both", "one", "other", "later"))


def begun(cluster: Cluster, names: tuple[str, ...], *, with_urls: bool) -> tuple[Node, list[Node]]:
    """A primary that is dead by now, and its replicas, which are stopped."""
    old = cluster.primary(None, root_password=ROOT_PASSWORD)
    old.put_index("root/dev", ROOT_PASSWORD, type="stage")
    replicas = []
    for name in names:
        port = free_port()
        own = ["--outside-url", f"http://127.0.0.1:{port}"] if with_urls else []
        arguments = ["--primary-url", old.url, *own]
        replicas.append(cluster.node(name, "pymirror-replica", arguments, port).start())
    assert upload(old, "root/dev", BOTH).status == 200
    check_same_roots([old, *replicas])
    if with_urls:
        for node in replicas:
            listed = node.state_dir / "nodes.json"
            others = [one.url for one in replicas if one is not node]
            eventually(
                lambda listed=listed, others=others: (  # type: ignore[misc]
                    listed.exists() and all(url in listed.read_text() for url in others)
                ),
                25, f"{node.name} knows the others",
            )  # fmt: skip
    for node in (old, *replicas):
        node.terminate()
    return old, replicas


def owner(cluster: Cluster, node: Node) -> Node:
    """A promoted replica as the primary, not started."""
    command(cluster, "promote", node)
    return cluster.become(node, "pymirror-primary", "--outside-url", node.url)


def check_stopped(node: Node) -> None:
    """A primary has stopped, and says since when and what to do."""
    fenced = node.status()["fenced"]
    assert fenced["state"] == "split"
    assert fenced["since"]
    assert "promote" in fenced["hint"]
    refused = upload(node, "root/dev", LATER)
    assert refused.status == 503, refused
    assert "two owners" in refused.reason
    assert "x-pymirror-primary" not in refused.headers
    assert node.page("root/dev", "both").status == 200


def is_split(node: Node) -> bool:
    """Whether a primary knows that it is not alone."""
    fenced = node.status()["fenced"]
    return fenced is not None and fenced["state"] == "split"


def test_both_owners_stop(tmp_path: Path) -> None:
    """Two replicas that did not see each other are both promoted: when they hear of each other
    both stop for good; one is promoted once more, the other demoted, and nothing is dropped."""
    with Cluster(tmp_path) as cluster:
        _, (first, second) = begun(cluster, ("first", "second"), with_urls=True)
        one, other = owner(cluster, first), owner(cluster, second)
        for node, built in ((one, ONE), (other, OTHER)):
            assert upload(node.start(), "root/dev", built).status == 200
            node.terminate()
        one.start()
        other.start()
        for node in (one, other):
            eventually(lambda node=node: is_split(node), 15, f"{node.name} stops")  # type: ignore[misc]
            check_stopped(node)
        check_stopped(one.restart())
        other.terminate()
        with pytest.raises(AssertionError, match="has two owners"):
            command(cluster, "demote", other, "--primary-url", one.url)

        one.terminate()
        assert "promoted: epoch 3" in command(cluster, "promote", one)
        one.start()
        assert upload(one, "root/dev", LATER).status == 200
        assert "only this node has" in command(cluster, "demote", other, "--primary-url", one.url)
        replica = cluster.become(other, "pymirror-replica", "--primary-url", one.url).start()
        check_same_roots([one, replica], 15)
        assert replica.page("root/dev", "one").status == 200
        assert replica.page("root/dev", "other").status == 404
        (kept,) = orphans(replica)
        assert OTHER.filename in kept.read_text()


def test_a_replica_tells_them(tmp_path: Path) -> None:
    """Owners that know no URL of each other hear of each other from a replica that asks both; it
    follows the one that is promoted again, and keeps what only the other had."""
    with Cluster(tmp_path) as cluster:
        _, (first, second) = begun(cluster, ("first", "second"), with_urls=False)
        one, other = owner(cluster, first), owner(cluster, second)
        one.start()
        both = ["--primary-url", one.url, "--primary-url", other.url]
        third = cluster.node("third", "pymirror-replica", both).start()
        assert upload(one, "root/dev", ONE).status == 200
        check_same_roots([one, third])
        one.terminate()
        assert upload(other.start(), "root/dev", OTHER).status in (200, 503)
        eventually(lambda: is_split(other), 20, "the second owner stops")
        check_stopped(other)
        one.start()
        eventually(lambda: is_split(one), 20, "the first owner stops")
        check_stopped(one)
        assert third.page("root/dev", "one").status == 200

        for node in (one, other):
            node.terminate()
        command(cluster, "promote", other)
        other.start()
        check_same_roots([other, third], 20)
        (kept,) = orphans(third)
        assert ONE.filename in kept.read_text()
