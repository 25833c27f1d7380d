"""Files across a cluster of real processes: one transfer from upstream however many ask, uploads
kept by replicas, siblings, a bounded cache, and what rots is mended."""

from __future__ import annotations

import hashlib
import os
import shutil
import socket
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.builders import wheel
from tests.functional.helpers import ROOT_PASSWORD, upload, wait_visible
from tests.processes import Cluster, Node, eventually, http

pytestmark = [pytest.mark.functional, pytest.mark.slow]

MIB = 1 << 20
CLIENTS = 200


@contextmanager
def growth(*nodes: Node) -> Iterator[dict[str, int]]:
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
    grown: dict[str, int] = {}
    try:
        yield grown
    finally:
        done.set()
        watcher.join()
        grown.update({name: most[name] - start[name] for name in start})


def download(url: str) -> str:
    """The sha256 of a whole body; a client of its own, that holds 64 kB at most."""
    parts = urlsplit(url)
    digest = hashlib.sha256()
    with socket.create_connection((parts.hostname, parts.port), timeout=600) as connection:
        request = f"GET {parts.path} HTTP/1.0\r\nHost: {parts.netloc}\r\n\r\n"
        connection.sendall(request.encode())
        with connection.makefile("rb", 1 << 16) as answer:
            assert b" 200 " in answer.readline()
            while answer.readline() not in (b"\r\n", b""):
                pass
            while data := answer.read(1 << 16):
                digest.update(data)
    return digest.hexdigest()


def replica_that_is_told_of(nodes: Cluster, primary: Node, name: str, *options: str) -> Node:
    """A replica whose siblings know where it is."""
    node = nodes.node(name, "pymirror-replica", ["--primary-url", primary.url, *options])
    node._command += ["--outside-url", node.url]
    return node.start()


def wait_for_siblings(node: Node, count: int) -> None:
    """Wait until a node has heard of the others."""
    what = f"{node.name} knows its siblings"
    eventually(lambda: len(node.status()["siblings"]) == count, 30, what)


def stored(node: Node, sha256: str) -> Path:
    return node.state_dir / "files" / "sha256" / sha256[:2] / sha256


# The large one takes eight minutes: only on demand.
SIZES = [64, 1024] if os.environ.get("PYMIRROR_TEST_GIANT") else [64]


@pytest.mark.timeout(3_600)
@pytest.mark.parametrize("mebibytes", SIZES)
def test_one_transfer_for_the_whole_cluster(
    nodes: Cluster, mebibytes: int, record_property: Callable[[str, object], None]
) -> None:
    """200 clients at 3 replicas ask for one new file: its upstream sends it once, everybody has
    all of it, and no node grows by more than the buffers of its clients (1 MiB each)."""
    if shutil.disk_usage(nodes.directory).free < 6 * mebibytes * MIB:
        pytest.skip("not enough disk")
    upstream = nodes.upstream(giant=mebibytes * MIB)
    primary = nodes.primary(f"{upstream.url}/giant/simple/")
    replicas = [replica_that_is_told_of(nodes, primary, f"replica{n}") for n in range(3)]
    for replica in replicas:
        wait_for_siblings(replica, 2)
    (file,) = replicas[0].page("root/pypi", "giant").json()["files"]
    urls = [next(iter(r.file_urls("root/pypi", "giant").values())) for r in replicas]
    start = time.monotonic()
    with growth(primary, *replicas) as grown, ThreadPoolExecutor(CLIENTS) as pool:
        digests = set(pool.map(download, [urls[n % 3] for n in range(CLIENTS)]))
    record_property("seconds", round(time.monotonic() - start, 1))
    record_property("growth", grown)
    print(f"{CLIENTS} x {mebibytes} MiB: {time.monotonic() - start:.1f} s, growth {grown}")
    assert digests == {file["hashes"]["sha256"]}
    assert upstream.counts()[f"/giant/files/{file['filename']}"] == 1
    assert max(grown.values()) < (CLIENTS / 3 + 32) * MIB, grown


def test_a_full_replica_has_everything(nodes: Cluster) -> None:
    """--files full brings uploads without being asked, says so with their serial, and serves them
    when the primary is gone; a lazy one beside it gets them from that sibling."""
    primary = nodes.primary(root_password=ROOT_PASSWORD)
    primary.put_index("root/dev", ROOT_PASSWORD, type="stage")
    built = [wheel(f"eager-{n}", "1.0", size=200_000) for n in range(12)]
    for one in built[:6]:
        assert upload(primary, "root/dev", one).status == 200
    full = replica_that_is_told_of(nodes, primary, "full", "--files", "full")
    lazy = replica_that_is_told_of(nodes, primary, "lazy")
    for one in built[6:]:
        assert upload(primary, "root/dev", one).status == 200
    head = primary.status()["serial"]

    def complete() -> bool:
        said = full.status()["in_sync"]
        return bool(said["files"]) and said["files_position"] >= head

    eventually(complete, 30, "all uploads are on the full replica")
    for one in built:
        assert stored(full, one.sha256).exists()
    wait_for_siblings(lazy, 1)
    eventually(lambda: lazy.status()["in_sync"]["files_missing"], 20, "the lazy one lacks files")
    urls = [wait_visible(lazy, "root/dev", one, 10) for one in built]
    primary.kill()
    for one, url in zip(built, urls, strict=True):
        assert http("GET", url).body == one.data


def test_a_cache_stays_in_its_bound(nodes: Cluster) -> None:
    """Mirrored files that were used longest ago go when the cache is full, never uploads; what
    went comes again."""
    upstream = nodes.upstream()
    built = [wheel(f"cached-{n}", "1.0", size=400_000) for n in range(4)]
    upstream.add("json", *built)
    primary = nodes.primary(
        f"{upstream.url}/json/simple/", "--cache-size", "1MB", root_password=ROOT_PASSWORD
    )
    primary.put_index("root/dev", ROOT_PASSWORD, type="stage")
    own = wheel("own", "1.0", size=900_000)
    assert upload(primary, "root/dev", own).status == 200
    for one in built:
        (url,) = primary.file_urls("root/pypi", one.name).values()
        assert http("GET", url).body == one.data
    cache = eventually(
        lambda: c if (c := primary.status()["cache"])["evicted"] >= 2 else None, 120, "eviction"
    )
    assert cache["used_bytes"] <= cache["limit_bytes"] == 1_000_000
    assert not stored(primary, built[0].sha256).exists()
    assert stored(primary, own.sha256).exists()
    (url,) = primary.file_urls("root/pypi", built[0].name).values()
    assert http("GET", url).body == built[0].data


def test_what_rots_is_mended(nodes: Cluster) -> None:
    """A damaged upload on the primary is found, put aside, and comes back from a replica."""
    primary = nodes.primary(None, "--scrub-rate", "100MB", root_password=ROOT_PASSWORD)
    primary.put_index("root/dev", ROOT_PASSWORD, type="stage")
    one = wheel("rotten", "1.0", size=200_000)
    assert upload(primary, "root/dev", one).status == 200
    full = replica_that_is_told_of(nodes, primary, "full", "--files", "full")
    eventually(lambda: full.status()["in_sync"]["files"], 30, "the replica has it")
    path = stored(primary, one.sha256)
    primary.terminate()
    path.chmod(0o644)
    path.write_bytes(b"!" + one.data[1:])
    # Files that arrived lately were hashed then: forget it, so that the scrub begins with them.
    with sqlite3.connect(primary.state_dir / "local.sqlite") as connection:
        connection.execute("UPDATE stored_files SET scrubbed_at = 0")
    connection.close()
    primary.start()
    eventually(lambda: primary.status()["scrub"]["damaged"] == 1, 60, "the damage is found")
    eventually(lambda: primary.status()["scrub"]["mended"] == 1, 120, "the file is mended")
    assert path.read_bytes() == one.data
    assert (primary.state_dir / "files" / "quarantine" / one.sha256).exists()
    assert primary.status()["scrub"]["unmended"] == []


def test_a_cut_upstream_goes_on(nodes: Cluster) -> None:
    """An upstream that breaks off half way is asked for the rest; the client sees one body."""
    upstream = nodes.upstream(giant=16 * MIB)
    primary = nodes.primary(f"{upstream.url}/giant/simple/")
    replica = nodes.replica(primary)
    (file,) = replica.page("root/pypi", "giant").json()["files"]
    path = f"/giant/files/{file['filename']}"
    upstream.fault(path, cut=5 * MIB, times=1)
    (url,) = replica.file_urls("root/pypi", "giant").values()
    assert download(url) == file["hashes"]["sha256"]
    assert upstream.counts()[path] == 2


def test_an_acknowledged_upload_is_on_a_replica(nodes: Cluster) -> None:
    """With --sync-replicas 1 an upload is answered when a full replica has its bytes, at once;
    then the primary's disk may go."""
    primary = nodes.primary(None, "--sync-replicas", "1", root_password=ROOT_PASSWORD)
    full = replica_that_is_told_of(nodes, primary, "full", "--files", "full")
    primary.put_index("root/dev", ROOT_PASSWORD, type="stage")
    built = [wheel(f"sure-{n}", "1.0", size=300_000) for n in range(5)]
    start = time.monotonic()
    for one in built:
        assert upload(primary, "root/dev", one).status == 200
        assert stored(full, one.sha256).read_bytes() == one.data
    assert time.monotonic() - start < 10
    primary.kill()
    shutil.rmtree(primary.state_dir)
    for one in built:
        assert http("GET", wait_visible(full, "root/dev", one, 5)).body == one.data


def test_nobody_vouches_for_a_file_without_digest(nodes: Cluster) -> None:
    """With the primary away such a file passes through a replica, marked, and is not kept."""
    upstream = nodes.upstream()
    one = wheel("plain", "1.0", size=200_000)
    upstream.add("nohash", one)
    primary = nodes.primary(None, root_password=ROOT_PASSWORD)
    primary.put_index(
        "root/nohash", ROOT_PASSWORD, type="mirror", mirror_url=f"{upstream.url}/nohash/"
    )
    replica = nodes.replica(primary)
    url = replica.file_urls("root/nohash", "plain")[one.filename]
    primary.kill()
    replica.page("root/nohash", "plain")
    for _ in range(2):
        answer = http("GET", url)
        assert (answer.status, answer.body) == (200, one.data)
        assert answer.headers["x-pymirror-source"] == "upstream-unverified"
    assert not stored(replica, one.sha256).exists()
    assert sum(request["path"].endswith(".whl") for request in upstream.requests()) == 2
