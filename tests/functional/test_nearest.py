"""Clients that ask any node for the nearest one get their files from it, and from the next one
when it dies; pymirror nearest finds it from the client's side."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from cluster.nearest import LOST_SECONDS
from replica.siblings import REFRESH_SECONDS
from tests.functional.helpers import TREE, check_installed
from tests.installers import pip_install, run, uv_install
from tests.processes import Cluster, Node, eventually, free_port

pytestmark = pytest.mark.functional

_PATH = "/+nearest/root/pypi/+simple/"
_BOUND_SECONDS = LOST_SECONDS + REFRESH_SECONDS + 5


def _replica(nodes: Cluster, primary: Node, name: str, *options: str) -> Node:
    node = nodes.node(name, "pymirror-replica", ["--primary-url", primary.url, *options])
    # Its port is known only now; a client must be sent where it listens.
    node._command += ["--outside-url", node.url]
    return node.start()


def _place(node: Node, path: str = _PATH, forwarded: str = "") -> str:
    headers = {"X-Forwarded-For": forwarded} if forwarded else {}
    answer = node.request("GET", path, headers=headers)
    assert answer.status in (307, 503), answer
    assert answer.headers["cache-control"] == "no-store"
    return answer.headers.get("location", "")


def _wait_place(node: Node, url: str) -> None:
    eventually(lambda: _place(node) == url, _BOUND_SECONDS, f"{node.name} sends to {url}")


def _cli(*arguments: str) -> str:
    return run(str(Path(sys.executable).with_name("pymirror")), *arguments)


def test_nearest(nodes: Cluster, tmp_path: Path) -> None:
    """pip and uv install through the redirect from the nearest of three replicas, from the next
    one within the bound when that is killed, and from the primary when all are; its return is
    noticed too."""
    upstream = nodes.upstream()
    upstream.add("json", *TREE)
    port = free_port()
    primary = nodes.primary(
        f"{upstream.url}/json/simple/", "--trusted-proxies", "127.0.0.0/8",
        "--listen", f"tcp:{port}:interface=127.0.0.1", "--outside-url", f"http://127.0.0.1:{port}",
    )  # fmt: skip
    near = _replica(nodes, primary, "near", "--networks", "127.0.0.1/32,192.0.2.0/24")
    next_ = _replica(nodes, primary, "next", "--networks", "127.0.0.0/8", "--region", "b")
    far = _replica(nodes, primary, "far", "--region", "c", "--weight", "1000")
    path = _PATH.removeprefix("/+nearest")
    for node in (primary, near, next_, far):
        _wait_place(node, near.url + path)
    assert _place(primary, forwarded="192.0.2.9") == near.url + path
    # What the primary knows of `far` is as old as its last poll.
    eventually(
        lambda: _place(primary, _PATH + "?region=c", forwarded="203.0.113.1") == far.url + path,
        _BOUND_SECONDS, "the primary sends to the region",
    )  # fmt: skip
    pip_install(primary.url + _PATH, "app", target=tmp_path / "pip")
    check_installed(tmp_path / "pip")
    assert near.status()["files"]["misses"] > 0

    found = json.loads(_cli("nearest", far.url, "--json", "--count", "2"))
    assert {one["url"] for one in found["nodes"]} >= {near.url, next_.url, far.url}
    assert all(one["latency_seconds"] > 0 for one in found["nodes"] if one["fresh"])

    config = tmp_path / "pip.conf"
    _cli("nearest", far.url, "--write", "pip", "--file", str(config), "--index", "root/pypi")
    assert f"index-url = {near.url[:17]}" in config.read_text()

    near.kill()
    for node in (primary, far):
        _wait_place(node, next_.url + path)
    uv_install(far.url + _PATH, "app", target=tmp_path / "uv")
    check_installed(tmp_path / "uv")
    assert next_.status()["files"]["misses"] > 0

    near.start()
    eventually(lambda: _place(far) == near.url + path, _BOUND_SECONDS, "near is back")
    for node in (near, next_, far):
        node.kill()
    eventually(
        lambda: _place(primary) == f"http://127.0.0.1:{port}{path}", _BOUND_SECONDS, "last resort"
    )


def test_replica_alone(nodes: Cluster) -> None:
    """A replica whose primary died goes on sending clients to who lives: itself."""
    primary = nodes.primary()
    one = _replica(nodes, primary, "one")
    primary.kill()
    assert _place(one, "/+nearest/+ready") == f"{one.url}/+ready"
