"""Attacks on a cluster of real processes, and accidents that look like one."""

from __future__ import annotations

import shutil
import socket
import time
from pathlib import Path

import pytest

from tests.builders import wheel
from tests.functional.helpers import ROOT_PASSWORD, upload
from tests.processes import Cluster, Node, eventually

pytestmark = pytest.mark.functional


def _state(replica: Node) -> str:
    state: str = replica.status()["follower"]["state"]
    return state


def test_a_primary_restored_from_an_older_copy(tmp_path: Path) -> None:
    """Replicas say that they diverged, apply nothing of the forked log, keep what was
    acknowledged, and answer in no time (devpi 1073)."""
    with Cluster(tmp_path) as nodes:
        upstream = nodes.upstream()
        mirrored, unseen = wheel("mirrored", "1.0"), wheel("unseen", "1.0")
        upstream.add("json", mirrored, unseen)
        primary = nodes.primary(None, root_password=ROOT_PASSWORD)
        primary.put_index("root/dev", ROOT_PASSWORD, type="stage", bases=[])
        primary.put_index(
            "root/now", ROOT_PASSWORD, type="mirror", mirror_url=f"{upstream.url}/json/simple/",
            mirror_cache_expiry=0, max_stale=0,
        )  # fmt: skip
        replica = nodes.replica(primary)
        assert replica.page("root/now", "mirrored").status == 200
        primary.terminate()
        shutil.copytree(primary.state_dir, tmp_path / "older")
        primary.start()
        assert upload(primary, "root/dev", wheel("lost", "1.0")).status == 200
        replica.wait_serial(primary.status()["serial"])
        serial, root = replica.status()["serial"], replica.status()["root"]
        primary.terminate()
        shutil.rmtree(primary.state_dir)
        (tmp_path / "older").rename(primary.state_dir)
        primary.start()
        for number in range(3):
            assert upload(primary, "root/dev", wheel("forked", f"1.{number}")).status == 200
        eventually(lambda: _state(replica) == "diverged", 15, "the replica notices")
        before = time.monotonic()
        assert replica.page("root/dev", "lost").status == 200
        assert replica.page("root/dev", "forked").status == 404
        assert replica.page("root/now", "mirrored").status == 200
        assert replica.page("root/now", "unseen").status == 200
        assert time.monotonic() - before < 5
        assert (replica.status()["serial"], replica.status()["root"]) == (serial, root)


def test_nodes_that_cannot_start(tmp_path: Path) -> None:
    """A port in use ends a node with status 1 and one line that says so."""
    with Cluster(tmp_path) as nodes, socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        node = nodes.node(
            "primary", "pymirror-primary", ["--no-root-pypi", "--listen", f"tcp:{port}"]
        )
        node.launch()
        eventually(lambda: not node.running, 15, "the node gives up")
        assert f":{port}: [Errno 98] Address already in use" in node.log_text()
        assert node.terminate() == 1
