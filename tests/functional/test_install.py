"""pip and uv install through a replica, and go on when everything behind it has gone."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.functional.helpers import (
    PROJECTS,
    TREE,
    check_installed,
    check_same_files,
    check_same_pages,
    check_same_roots,
)
from tests.installers import pip_install, uv_install
from tests.processes import Cluster, Node, eventually

pytestmark = pytest.mark.functional


def _install(node: Node, target: Path) -> None:
    """Install the tree with both installers from both indexes of a node."""
    for index in ("root/pypi", "root/html"):
        for install in (pip_install, uv_install):
            into = target / index / install.__name__
            install(f"{node.url}/{index}/+simple/", "app", target=into)
            check_installed(into)


def test_cluster_outlives_upstream_and_primary(nodes: Cluster, tmp_path: Path) -> None:
    """Installs work from a replica, then without the upstream, then without the primary; a
    fresh replica then joins and every node serves the same bytes."""
    upstream = nodes.upstream()
    upstream.add("json", *TREE)
    upstream.add("html", *TREE)
    primary = nodes.primary(f"{upstream.url}/json/simple/")
    primary.put_index("root/html", type="mirror", mirror_url=f"{upstream.url}/html/simple/")
    one, two = nodes.replica(primary, "replica-1"), nodes.replica(primary, "replica-2")

    _install(one, tmp_path / "all")
    for index in ("root/pypi", "root/html"):
        assert primary.get(f"/{index}/+simple/").status == 200

    upstream.terminate()
    _install(two, tmp_path / "no-upstream")

    primary.kill()
    _install(one, tmp_path / "no-primary-1")
    _install(two, tmp_path / "no-primary-2")

    primary.start()
    three = nodes.replica(primary, "replica-3")
    everyone = (primary, one, two, three)
    check_same_roots(everyone)
    wanted = [b for b in TREE if (b.name, b.version) not in {("lib-a", "1.0"), ("lib-d", "3.0")}]
    for index in ("root/pypi", "root/html"):
        check_same_pages(everyone, index, ["", *PROJECTS])
        check_same_files(everyone, index, [b for b in wanted if b.requires_python != ">=99"])


def test_replica_restarts_without_primary(nodes: Cluster, tmp_path: Path) -> None:
    """A replica that is restarted while the primary is down still installs what it has."""
    upstream = nodes.upstream()
    upstream.add("json", *TREE)
    primary = nodes.primary(f"{upstream.url}/json/simple/")
    replica = nodes.replica(primary)
    uv_install(f"{replica.url}/root/pypi/+simple/", "app", target=tmp_path / "before")
    upstream.terminate()
    primary.kill()
    replica.restart()
    uv_install(f"{replica.url}/root/pypi/+simple/", "app", target=tmp_path / "after")
    check_installed(tmp_path / "after")
    eventually(lambda: replica.status()["follower"]["last_error"], 5, "the failure in the status")


def test_replica_alone_asks_upstream(nodes: Cluster) -> None:
    """With the primary away, a replica answers for a project it has never seen from upstream,
    says so in a header and logs nothing."""
    upstream = nodes.upstream()
    upstream.add("json", *TREE)
    primary = nodes.primary(f"{upstream.url}/json/simple/")
    replica = nodes.replica(primary)
    serial = replica.status()["serial"]
    primary.kill()
    page = replica.page("root/pypi", "lib-b")
    assert page.status == 200, page
    assert "x-pymirror-source" in page.headers, page.headers
    assert [f["filename"] for f in page.json()["files"]] == [TREE[3].filename]
    assert replica.status()["serial"] == serial
    primary.start()
    assert primary.page("root/pypi", "lib-b").status == 200
    check_same_roots((primary, replica))
    check_same_pages((primary, replica), "root/pypi", ["lib-b"])
