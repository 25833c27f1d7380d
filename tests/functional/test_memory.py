"""Size does not matter: giant files and giant lists pass through small processes."""

from __future__ import annotations

import hashlib
import shutil
import threading
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.processes import Cluster, Node, http

pytestmark = [pytest.mark.functional, pytest.mark.slow]

MIB = 1 << 20
GIANT = 3_000 * MIB
BIG = 700_000


@contextmanager
def _growth(*nodes: Node) -> Iterator[dict[str, int]]:
    """Fills in by how many bytes each node's memory grew at most while the block ran."""
    start = {node.name: node.rss_bytes() for node in nodes}
    most = dict(start)
    done = threading.Event()

    def watch() -> None:
        while not done.wait(0.05):
            for node in nodes:
                most[node.name] = max(most[node.name], node.rss_bytes())

    watcher = threading.Thread(target=watch)
    watcher.start()
    growth: dict[str, int] = {}
    try:
        yield growth
    finally:
        done.set()
        watcher.join()
        growth.update({name: most[name] - start[name] for name in start})


def _digest(url: str) -> str:
    digest = hashlib.sha256()
    with urllib.request.urlopen(url, timeout=60) as answer:
        while data := answer.read(MIB):
            digest.update(data)
    return digest.hexdigest()


@pytest.fixture
def disk(nodes: Cluster) -> Iterator[Path]:
    """A directory with room for two copies of the giant, emptied afterwards."""
    if shutil.disk_usage(nodes.directory).free < 3 * GIANT:
        pytest.skip("not enough disk for two copies of a 3 GB file")
    yield nodes.directory
    for node in ("primary", "replica"):
        shutil.rmtree(nodes.directory / node / "files", ignore_errors=True)


@pytest.mark.usefixtures("disk")
def test_giant_file(nodes: Cluster) -> None:
    """A 3 GB wheel passes from upstream through primary and replica; each grows < 64 MiB."""
    upstream = nodes.upstream(giant=GIANT)
    primary = nodes.primary(f"{upstream.url}/giant/simple/")
    replica = nodes.replica(primary)
    page = replica.page("root/pypi", "giant").json()
    (url,) = replica.file_urls("root/pypi", "giant").values()
    with _growth(primary, replica) as growth:
        assert _digest(url) == page["files"][0]["hashes"]["sha256"]
    assert max(growth.values()) < 64 * MIB, growth
    assert upstream.counts()[f"/giant/files/{page['files'][0]['filename']}"] == 1


def test_giant_list(nodes: Cluster, record_property: Callable[[str, object], None]) -> None:
    """A list of 700,000 names is fetched, followed and served in all formats; each node grows
    < 100 MiB."""
    upstream = nodes.upstream(big=BIG)
    primary = nodes.primary(f"{upstream.url}/big/simple/")
    replica = nodes.replica(primary)
    with _growth(primary, replica) as growth:
        for node in (primary, replica):
            _check_list(node)
    record_property("growth", growth)
    assert max(growth.values()) < 100 * MIB, growth


def _check_list(node: Node) -> None:
    json_type = "application/vnd.pypi.simple.v1+json"
    url = f"{node.url}/root/pypi/+simple/"
    answer = http("GET", url, headers={"Accept": json_type}, timeout=120)
    assert answer.status == 200, answer.body[:500]
    names = [project["name"] for project in answer.json()["projects"]]
    assert (len(names), len(set(names))) == (BIG, BIG)
    page = http("GET", url, headers={"Accept": "text/html"}, timeout=120)
    assert page.body.count(b"<a ") == BIG
    packed = {"Accept": json_type, "Accept-Encoding": "gzip"}
    assert len(http("GET", url, headers=packed, timeout=120).body) < len(answer.body) / 3
