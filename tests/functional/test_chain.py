"""Replicas that follow replicas: converge, pass writes on, notice rings, survive the middle."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cluster.protocol import SERIAL_HEADER
from tests.builders import wheel
from tests.functional.helpers import (
    ROOT_PASSWORD,
    check_same_files,
    check_same_pages,
    check_same_roots,
    upload,
    wait_visible,
)
from tests.processes import Cluster, Node, basic, eventually

pytestmark = [pytest.mark.functional]

ROOT = {**basic("root", ROOT_PASSWORD), "Content-Type": "application/json"}


def chain(nodes: Cluster, length: int = 3) -> list[Node]:
    """A primary and replicas, each of which follows the one before it."""
    made = [nodes.primary(root_password=ROOT_PASSWORD)]
    made[0].put_index("root/dev", ROOT_PASSWORD, type="stage")
    for number in range(1, length + 1):
        made.append(nodes.replica(made[-1], f"replica{number}"))
    return made


def follower(node: Node) -> dict[str, object]:
    """What a replica says of its following; nothing while it does not answer."""
    try:
        said: dict[str, object] = node.status()["follower"]
    except OSError:
        return {}
    return said


def test_a_chain_of_three(nodes: Cluster) -> None:
    """A write through the last replica is read back there, and all nodes come to the same log."""
    made = chain(nodes)
    first, last = made[0], made[-1]
    one, two = wheel("demo", "1.0"), wheel("demo", "2.0")
    answer = upload(last, "root/dev", one)
    assert answer.status == 200
    assert int(answer.headers[SERIAL_HEADER.lower()]) <= last.status()["serial"]
    assert one.filename in last.file_urls("root/dev", "demo")
    upload(first, "root/dev", two)
    wait_visible(last, "root/dev", two, 5)
    check_same_roots(made)
    check_same_pages(made, "root/dev", ["", "demo"])
    check_same_files(made, "root/dev", [one, two])
    assert follower(last)["state"] == "in-sync"
    assert last.status()["log_identity"] == first.status()["log_identity"]


def test_credentials_reach_the_end_of_a_chain(nodes: Cluster) -> None:
    """Users made at one end log in at the other; a wrong password is refused there; nobody's
    request becomes a node's because nodes pass it on."""
    made = chain(nodes)
    body = json.dumps({"password": "secret of ann"}).encode()
    assert made[-1].request("PUT", "/ann", headers=ROOT, body=body).status == 201
    login = json.dumps({"user": "ann", "password": "secret of ann"}).encode()
    for node in made:
        assert node.request("POST", "/+login", body=login).status == 200, node.name
    built = wheel("demo", "1.0")
    assert upload(made[-1], "root/dev", built, "wrong").status == 401
    order = json.dumps({"epoch": 99, "url": "http://elsewhere.example"}).encode()
    for path in ("/+node/fence", "/%2Bnode/fence", "/+log/cosign", "/+node/refresh"):
        assert made[-1].request("POST", path, body=order).status in (401, 404, 421), path
    assert upload(made[-1], "root/dev", built).status == 200


def test_the_middle_is_killed(nodes: Cluster) -> None:
    """The end of a chain serves on while the middle is dead, and catches up when it is back."""
    made = chain(nodes)
    middle, last = made[1], made[-1]
    upload(made[0], "root/dev", wheel("demo", "1.0"))
    wait_visible(last, "root/dev", wheel("demo", "1.0"), 5)
    middle.kill()
    eventually(lambda: follower(made[2]).get("state") == "primary-unreachable", 10, "noticed")
    for number in range(20):
        upload(made[0], "root/dev", wheel("demo", f"2.{number}"))
    assert last.page("root/dev", "demo").status == 200
    middle.start()
    check_same_roots(made, seconds=20)
    check_same_pages(made, "root/dev", ["", "demo"])


def test_a_replica_of_a_replica_without_a_primary(nodes: Cluster) -> None:
    """A fresh replica copies everything from a replica whose primary is gone."""
    made = chain(nodes, 1)
    for number in range(30):
        upload(made[0], "root/dev", wheel("demo", f"1.{number}"))
    made[1].wait_serial(made[0].status()["serial"])
    want = made[0].status()["root"]
    made[0].kill()
    late = nodes.replica(made[1], "late")
    late.wait_serial(made[1].status()["serial"])
    assert late.status()["root"] == want
    assert len(late.page("root/dev", "demo").json()["files"]) == 30


def test_lag_is_behind_the_primary(nodes: Cluster) -> None:
    """The end of a chain does not call itself in sync while the middle is behind the primary."""
    made = chain(nodes, 2)
    eventually(lambda: follower(made[2]).get("state") == "in-sync", 5, "in sync")
    status = made[2].status()
    assert status["primary"]["serial"] == made[0].status()["serial"]


def wait_loop(node: Node) -> None:
    """Wait until a node says that it is in a ring."""
    eventually(lambda: follower(node).get("state") == "loop", 45, f"{node.name} notices")


def replaced(node: Node, *urls: str) -> Node:
    """The same node with other URLs to follow; not started."""
    node.terminate()
    command = list(node._command)
    at = command.index("--primary-url")
    command[at + 1] = urls[0]
    node._command = command
    return node


def test_a_ring(nodes: Cluster) -> None:
    """Two replicas that follow each other say so, and recover when one is pointed elsewhere."""
    primary, a, b = chain(nodes, 2)
    replaced(a, b.url).launch()
    wait_loop(a)
    wait_loop(b)
    assert "primary" in str(follower(a)["last_error"]) + str(follower(b)["last_error"])
    assert upload(a, "root/dev", wheel("demo", "1.0")).status == 508
    replaced(a, primary.url).start()
    upload(primary, "root/dev", wheel("demo", "1.0"))
    check_same_roots([primary, a, b], seconds=20)


def test_a_fresh_ring(nodes: Cluster, tmp_path: Path) -> None:
    """Two fresh replicas that know no primary at all notice too, and one that follows itself."""
    nodes.primary(root_password=ROOT_PASSWORD)
    a = nodes.node("a", "pymirror-replica", ["--primary-url", "http://127.0.0.1:1"])
    b = nodes.node("b", "pymirror-replica", ["--primary-url", a.url])
    replaced(a, b.url)
    own = nodes.node("own", "pymirror-replica", ["--primary-url", "http://127.0.0.1:1"])
    replaced(own, own.url)
    for node in (a, b, own):
        node.launch()
    for node in (a, b, own):
        wait_loop(node)
