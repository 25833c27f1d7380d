"""Documentation that devpi-client's form uploads, read from a primary and from a replica."""

from __future__ import annotations

import io
import random
import threading
import time
import zipfile
from collections.abc import Iterator
from http.client import HTTPConnection

import pytest
from attrs import frozen

from cluster.web.docs import SANDBOX
from tests.builders import multipart
from tests.functional.helpers import ROOT_PASSWORD
from tests.processes import Answer, Cluster, Node, basic

pytestmark = pytest.mark.functional

KEY = basic("root", ROOT_PASSWORD)
LARGE = random.Random(8).randbytes(1 << 20) * 100
NODES = pytest.mark.parametrize("through", ["primary", "replica"])


@frozen
class Nodes:
    """A primary and a replica with root/dev on top of root/private, which only root reads."""

    cluster: Cluster
    primary: Node
    replica: Node

    def node(self, name: str) -> Node:
        return self.replica if name == "replica" else self.primary


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nodes]:
    """The nodes."""
    with Cluster(tmp_path_factory.mktemp("docs")) as cluster:
        primary = cluster.primary(None, root_password=ROOT_PASSWORD)
        primary.put_index("root/private", ROOT_PASSWORD, type="stage", acl_pkg_read=["root"])
        primary.put_index("root/dev", ROOT_PASSWORD, type="stage", bases=["root/private"])
        yield Nodes(cluster, primary, cluster.replica(primary))


def docs_zip(**pages: bytes) -> bytes:
    """Documentation with these pages; dots in names are written as `_dot_`."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for page, data in pages.items():
            archive.writestr(page.replace("_dot_", "."), data)
    return out.getvalue()


def upload_docs(node: Node, index: str, name: str, version: str, **pages: bytes) -> Answer:
    """Upload documentation as devpi-client does."""
    fields = {":action": "doc_upload", "name": name, "version": version}
    content_type, body = multipart(fields, f"{name}.zip", docs_zip(**pages))
    headers = {**KEY, "Content-Type": content_type}
    answer = node.request("POST", f"/{index}/", body=body, headers=headers, timeout=120)
    assert answer.status == 200, answer
    return answer


@NODES
def test_both_nodes_serve(nodes: Nodes, through: str) -> None:
    """What is uploaded through one node is read on both, the same bytes and headers."""
    name = f"both-{through}"
    node = nodes.node(through)
    upload_docs(node, "root/dev", name, "1.0", index_dot_html=b"<p>one", search_dot_js=b"1")
    upload_docs(node, "root/dev", name, "2.0rc1", index_dot_html=b"<p>two")
    nodes.replica.wait_serial(nodes.primary.status()["serial"])
    for path, body in (
        ("1.0/+doc/index.html", b"<p>one"), ("latest/+doc/index.html", b"<p>two"),
        ("stable/+doc/index.html", b"<p>one"),
    ):  # fmt: skip
        answers = [n.get(f"/root/dev/{name}/{path}") for n in (nodes.primary, nodes.replica)]
        assert [a.status for a in answers] == [200, 200]
        assert [a.body for a in answers] == [body, body]
        assert answers[0].headers["etag"] == answers[1].headers["etag"]
        assert {a.headers["content-security-policy"] for a in answers} == {SANDBOX}
    for one in (nodes.primary, nodes.replica):
        first = one.get(f"/root/dev/{name}/1.0/+doc/")
        assert (first.status, first.headers["location"].rsplit("/")[-1]) == (302, "index.html")
        assert one.get(f"/root/dev/{name}/1.0/+d/").status == 302
        assert one.get(f"/root/dev/{name}/1.0/+doc/search.js").body.endswith(b";1")


@NODES
def test_restricted_docs(nodes: Nodes, through: str) -> None:
    """Documentation on a restricted base is for its readers, there and through other indexes."""
    name, node = f"private-{through}", nodes.node(through)
    upload_docs(node, "root/private", name, "1.0", index_dot_html=b"secret")
    nodes.replica.wait_serial(nodes.primary.status()["serial"])
    for one in (nodes.primary, nodes.replica):
        for index, status in (("root/private", 401), ("root/dev", 404)):
            path = f"/{index}/{name}/latest/+doc/index.html"
            assert one.get(path).status == status
            answer = one.request("GET", path, headers=KEY)
            assert (answer.status, answer.body) == (200, b"secret")
            assert "private" in answer.headers["cache-control"]


def test_large_members(nodes: Nodes) -> None:
    """A hundred megabytes pass through in bounded memory; the node answers others meanwhile,
    and who reads slowly holds nothing up.
    """
    upload_docs(nodes.primary, "root/dev", "large", "1.0", large_dot_bin=LARGE)
    path = "/root/dev/large/1.0/+doc/large.bin"
    nodes.replica.wait_serial(nodes.primary.status()["serial"])
    for node in (nodes.primary, nodes.replica):
        node.get("/root/dev/large/1.0/+doc/none")  # the zip is here
        before = node.rss_bytes()
        slow = HTTPConnection("127.0.0.1", node.port, timeout=60)
        slow.request("GET", path)
        stalled = slow.getresponse()
        bodies: list[bytes] = []
        reader = threading.Thread(target=lambda: bodies.append(node.get(path).body))  # noqa: B023
        reader.start()
        longest = 0.0
        while reader.is_alive():
            started = time.monotonic()
            assert node.get("/+ready").status == 200
            longest = max(longest, time.monotonic() - started)
        reader.join()
        assert bodies == [LARGE]
        assert longest < 1.0
        assert node.rss_bytes() - before < 40 << 20
        assert stalled.read(1000) == LARGE[:1000]
        slow.close()


def test_without_the_primary(nodes: Nodes) -> None:
    """A replica that fetched a zip serves it while the primary is away; of others it says why
    not, and serves them when the primary is back.
    """
    for name in ("known", "unknown"):
        upload_docs(nodes.primary, "root/dev", name, "1.0", index_dot_html=name.encode())
    nodes.replica.wait_serial(nodes.primary.status()["serial"])
    path = "/root/dev/{}/1.0/+doc/index.html"
    assert nodes.replica.get(path.format("known")).body == b"known"
    nodes.primary.terminate()
    try:
        assert nodes.replica.get(path.format("known")).body == b"known"
        answer = nodes.replica.get(path.format("unknown"))
        assert answer.status in (502, 503)
        assert b"unknown-1.0.doc.zip could not be fetched" in answer.body
    finally:
        nodes.primary.start()
    assert nodes.replica.get(path.format("unknown")).body == b"unknown"
