"""/+authcheck on both kinds of node, and the nginx front of deploy/README.md."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from attrs import frozen

from tests import nginx
from tests.builders import wheel
from tests.functional.helpers import ROOT_PASSWORD, upload
from tests.processes import (
    CHECKOUT,
    Answer,
    Cluster,
    Node,
    ServerProcess,
    basic,
    free_port,
    http,
)

pytestmark = pytest.mark.functional

ROOT = basic("root", ROOT_PASSWORD)
ANN, BOB = basic("ann", "ann's"), basic("bob", "bob's")
DEVPI = {"User-Agent": "devpi-client/7.3.0"}
SECRET, OPEN = wheel("secret", "1.0"), wheel("open", "1.0")
NODES = pytest.mark.parametrize("through", ["primary", "replica"])


def file_link(index: str, built: object) -> str:
    """The path of a file below an index."""
    sha256, name = built.sha256, built.filename  # type: ignore[attr-defined]
    return f"/{index}/+f/{sha256[:3]}/{sha256[3:16]}/{name}"


PRIVATE_FILE, OPEN_FILE = file_link("root/private", SECRET), file_link("root/open", OPEN)
THROUGH_CHILD = file_link("root/child", SECRET)


@frozen
class Site:
    """root/private, which ann reads; root/child on top of it and root/open, for everybody."""

    primary: Node
    replica: Node
    folder: Path

    def node(self, name: str) -> Node:
        return self.replica if name == "replica" else self.primary


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """The nodes."""
    folder = tmp_path_factory.mktemp("authcheck")
    with Cluster(folder) as cluster:
        primary = cluster.primary(None, root_password=ROOT_PASSWORD)
        for name in ("ann", "bob"):
            body = f'{{"password": "{name}\'s"}}'.encode()
            assert primary.request("PUT", f"/{name}", body=body).status == 201
        primary.put_index("root/private", ROOT_PASSWORD, type="stage", acl_pkg_read=["ann"],
                          acl_upload=["root", "ann"])  # fmt: skip
        primary.put_index("root/child", ROOT_PASSWORD, type="stage", bases=["root/private"])
        primary.put_index("root/open", ROOT_PASSWORD, type="stage")
        assert upload(primary, "root/private", SECRET).status == 200
        assert upload(primary, "root/open", OPEN).status == 200
        replica = cluster.replica(primary)
        replica.wait_serial(primary.status()["serial"])
        yield Site(primary, replica, folder)


def check(node: Node, uri: str, key: dict[str, str], method: str = "") -> Answer:
    """Ask as a front does."""
    headers = {**key, "X-Original-URI": uri}
    if method:
        headers["X-Original-Method"] = method
    return node.request("GET", "/+authcheck", headers=headers)


PAGE, DOCS = "/root/private/+simple/secret/", "/root/private/secret/1.0/+doc/index.html"


@NODES
@pytest.mark.parametrize(
    ("uri", "method", "statuses"),
    [
        # nobody, bob (a stranger), ann (a reader), root (the owner)
        ("/+api", "", (200, 200, 200, 200)),
        ("/root/private/+api", "", (200, 200, 200, 200)),
        ("/+login", "POST", (200, 200, 200, 200)),
        ("/+static-1.0/style.css", "", (200, 200, 200, 200)),
        ("/", "", (200, 200, 200, 200)),
        ("/ann", "", (200, 200, 200, 200)),
        ("/root/open/+simple/", "", (200, 200, 200, 200)),
        ("http://front.example/root/open/+simple/?x", "", (200, 200, 200, 200)),
        (OPEN_FILE, "", (200, 200, 200, 200)),
        (OPEN_FILE + ".metadata", "", (200, 200, 200, 200)),
        ("/root/private/+simple/", "", (401, 403, 200, 200)),
        (PAGE, "HEAD", (401, 403, 200, 200)),
        ("/root/private", "", (401, 403, 200, 200)),
        ("/root/private/secret/1.0", "", (401, 403, 200, 200)),
        ("/root/private/pypi/secret/json", "", (401, 403, 200, 200)),
        (DOCS, "", (401, 403, 200, 200)),
        (PRIVATE_FILE, "", (401, 403, 200, 200)),
        (PRIVATE_FILE + ".metadata", "", (401, 403, 200, 200)),
        (THROUGH_CHILD, "", (403, 403, 200, 200)),
        (file_link("root/open", SECRET), "", (403, 403, 403, 403)),
        ("/root/none/+simple/", "", (403, 403, 403, 403)),
        ("/root/dev/+nothing", "", (403, 403, 403, 403)),
        ("/root/open/../private/+simple/", "", (403, 403, 403, 403)),
        ("", "", (403, 403, 403, 403)),
        ("/root/private/", "POST", (401, 200, 200, 200)),
        ("/root/open/", "POST", (200, 200, 200, 200)),
        ("/carl", "PUT", (200, 200, 200, 200)),
        ("/root/fresh", "PUT", (401, 200, 200, 200)),
        ("/+tokens", "", (401, 200, 200, 200)),
        ("/+tokens", "POST", (401, 200, 200, 200)),
        ("/+node/secret/abc", "", (403, 403, 403, 403)),
        ("/+log/tail", "", (403, 403, 403, 403)),
        ("/+log/checkpoint", "", (200, 200, 200, 200)),
    ],
)  # fmt: skip
def test_answers(
    site: Site, through: str, uri: str, method: str, statuses: tuple[int, ...]
) -> None:
    """What each may have passes, what a password could open asks for one, the rest is refused."""
    node = site.node(through)
    answers = [check(node, uri, key, method) for key in ({}, BOB, ANN, ROOT)]
    assert tuple(a.status for a in answers) == statuses
    for answer in answers:
        assert answer.headers["cache-control"] == "no-store"
        assert ("www-authenticate" in answer.headers) == (answer.status == 401)


@NODES
def test_clients(site: Site, through: str) -> None:
    """devpi-client gets 403 where others get 401; wrong credentials are none."""
    node = site.node(through)
    assert check(node, PAGE, DEVPI).status == 403
    assert check(node, PAGE, {**DEVPI, **ANN}).status == 200
    assert check(node, PAGE, basic("ann", "wrong")).status == 401
    assert check(node, PAGE, basic("ann", "wrong"), "POST").status in (401, 403)
    assert check(node, "/root/open/+simple/", basic("ann", "wrong")).status == 200
    assert check(node, PAGE, {"Authorization": "Basic !"}).status == 401


@pytest.mark.skipif(nginx.NGINX is None, reason=nginx.WHY_NOT)
@NODES
def test_nginx(site: Site, tmp_path: Path, through: str) -> None:
    """The configuration in deploy/README.md: nginx keeps a restricted file, gives it to readers
    alone while the node need not send it again, and never to others.
    """
    node, port = site.node(through), free_port()
    front = start_nginx(node, port, tmp_path)
    url = f"http://127.0.0.1:{port}"
    try:
        for _ in range(2):
            assert http("GET", url + PRIVATE_FILE, headers=ANN).body == SECRET.data
            nobody = http("GET", url + PRIVATE_FILE)
            assert (nobody.status, "www-authenticate" in nobody.headers) == (401, True)
            assert http("GET", url + PRIVATE_FILE, headers=BOB).status == 403
            assert http("GET", url + PRIVATE_FILE, headers=DEVPI).status == 403
            assert http("GET", url + THROUGH_CHILD).status == 403
            assert http("GET", url + THROUGH_CHILD, headers=ANN).body == SECRET.data
            assert http("GET", url + OPEN_FILE).body == OPEN.data
        assert kept(tmp_path) == {PRIVATE_FILE, THROUGH_CHILD, OPEN_FILE}
        assert http("GET", f"{url}/+authcheck").status == 404
        page = http("GET", url + PAGE, headers=ANN)
        assert (page.status, SECRET.filename.encode() in page.body) == (200, True)
        assert http("GET", url + PAGE).status == 401
    finally:
        front.terminate()


def kept(folder: Path) -> set[str]:
    """The paths whose answers nginx keeps."""
    keys = set()
    for path in (folder / "cache").rglob("*"):
        found = re.search(rb"\nKEY: (\S+)\n", path.read_bytes()) if path.is_file() else None
        keys |= {found[1].decode()} if found else set()
    return {urlsplit(key).path for key in keys}


def start_nginx(node: Node, port: int, folder: Path) -> ServerProcess:
    """nginx with the snippets of deploy/README.md, without TLS, in front of a node."""
    blocks = re.findall(
        r"^```nginx\n(.*?)^```", (CHECKOUT / "deploy" / "README.md").read_text(), re.S | re.M
    )
    server = next(b for b in blocks if b.startswith("server"))
    cache = next(b for b in blocks if b.startswith("proxy_cache_path"))
    locations = next(b for b in blocks if "auth_request" in b)
    text = cache + server.rstrip().removesuffix("}") + locations + "}\n"
    text = re.sub(r"^ *ssl_.*\n", "", text, flags=re.M)
    text = text.replace("listen 443 ssl", f"listen 127.0.0.1:{port}")
    text = text.replace("127.0.0.1:3141", f"127.0.0.1:{node.port}")
    text = text.replace("/var/cache/nginx/pymirror", f"{folder}/cache")
    return nginx.start(text, port, folder)
