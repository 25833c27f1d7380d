"""pip search, XML-RPC and the legacy JSON API of real nodes, asked with real clients."""

from __future__ import annotations

import subprocess
import sys
import xmlrpc.client
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote, urljoin, urlsplit

import pytest

from tests.builders import wheel
from tests.functional.helpers import ROOT_PASSWORD, upload
from tests.installers import run
from tests.processes import Cluster, Node, basic, eventually, http

pytestmark = pytest.mark.functional

Nodes = tuple[Node, Node]
KEY = basic("root", ROOT_PASSWORD)
BOTH = pytest.mark.parametrize("through", [0, 1], ids=["primary", "replica"])
BOMB = b"""<?xml version="1.0"?><!DOCTYPE x [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;">]>
<methodCall><methodName>&b;</methodName></methodCall>"""


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nodes]:
    """A primary with root/pypi (mirror), root/dev on top of it and root/secret, and a replica."""
    with Cluster(tmp_path_factory.mktemp("search")) as cluster:
        upstream = cluster.upstream()
        upstream.add("json", wheel("from-upstream", "1.0"), wheel("basket-tools", "3.0"))
        primary = cluster.primary(f"{upstream.url}/json/simple/", root_password=ROOT_PASSWORD)
        primary.put_index("root/dev", ROOT_PASSWORD, type="stage", bases="root/pypi")
        primary.put_index("root/secret", ROOT_PASSWORD, type="stage", acl_pkg_read=["root"])
        for index, name in (("root/dev", "willow-basket"), ("root/secret", "hush-basket")):
            for version in ("1.0", "1.10", "1.9"):
                assert upload(primary, index, wheel(name, version)).status == 200
        yield primary, cluster.replica(primary)


def ask(node: Node, method: str, *arguments: Any, index: str = "root/dev", user: str = "") -> Any:
    """Call a method with the client of the standard library."""
    url = node.url.replace("//", f"//{user}@") if user else node.url
    with xmlrpc.client.ServerProxy(f"{url}/{index}/", allow_none=True) as server:
        return getattr(server, method)(*arguments)


def found(node: Node, query: str) -> dict[str, Any]:
    hits = ask(node, "search", {"name": [query], "summary": [query]}, "or")
    return {hit["name"]: hit for hit in hits}


def wait_found(node: Node, query: str, *names: str) -> dict[str, Any]:
    def check() -> dict[str, Any] | None:
        hits = found(node, query)
        return hits if set(names) <= hits.keys() else None

    return eventually(check, 10, f"{names} found on {node.name}")


@BOTH
def test_search(pair: Nodes, through: int) -> None:
    """A hosted project is found with its latest version and summary, a mirrored one by name."""
    hits = wait_found(pair[through], "basket", "willow-basket", "basket-tools")
    own = hits["willow-basket"]
    assert own["version"] == "1.10"
    assert own["summary"] == "[root/dev] A test package called willow-basket"
    assert hits["basket-tools"]["summary"] == "[root/pypi]"
    assert "hush-basket" not in hits
    assert "from-upstream" not in hits


@BOTH
def test_pip_search(pair: Nodes, through: int) -> None:
    """The real ``pip search`` prints what is found, with and without the final slash."""
    node = pair[through]
    wait_found(node, "basket", "willow-basket", "basket-tools")
    for slash in ("", "/"):
        output = run(
            sys.executable, "-m", "pip", "search", "--isolated", "--no-input",
            "--disable-pip-version-check", "--index", f"{node.url}/root/dev{slash}", "basket",
        )  # fmt: skip
        assert "willow-basket (1.10)" in output
        assert "A test package called" in output
        assert "basket-tools (0)" in output


def test_pip_search_finds_nothing(pair: Nodes) -> None:
    """pip says with its exit code that there is nothing, not that the server failed."""
    command = [
        sys.executable, "-m", "pip", "search", "--isolated", "--disable-pip-version-check",
        "--index", f"{pair[1].url}/root/dev", "nosuchthing",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, timeout=60, check=False)
    assert done.returncode == 23, done  # pip's NO_MATCHES_FOUND
    assert b"ERROR" not in done.stderr


@BOTH
def test_an_upload_is_found_soon(pair: Nodes, through: int) -> None:
    """What is uploaded through either node is found on both, and what is deleted is not."""
    name = f"fresh-{through}"
    assert upload(pair[through], "root/dev", wheel(name, "1.0")).status == 200
    for node in pair:
        wait_found(node, name, name)


@BOTH
def test_mirror_tools(pair: Nodes, through: int) -> None:
    """The questions of tools that copy an index agree with each other and with the pages."""
    node = pair[through]
    serials = ask(node, "list_packages_with_serial")
    assert set(serials) == set(ask(node, "list_packages"))
    assert {"willow-basket", "from-upstream", "basket-tools"} <= set(serials)
    assert "hush-basket" not in serials
    last = ask(node, "changelog_last_serial")
    assert max(serials.values()) <= last
    rows = ask(node, "changelog_since_serial", 0)
    added = [row for row in rows if row[0] == "willow-basket" and row[3].startswith("add py3 file")]
    assert [row[1] for row in added] == ["1.0", "1.10", "1.9"]
    assert not any("hush" in row[0] for row in rows)
    assert ask(node, "changelog_since_serial", last) == []
    assert ask(node, "package_releases", "willow-basket") == ["1.10", "1.9", "1.0"]
    (url,) = ask(node, "release_urls", "willow-basket", "1.9")
    assert http("GET", url["url"]).body == wheel("willow-basket", "1.9").data


@BOTH
@pytest.mark.parametrize("project", ["willow-basket", "from-upstream"])
def test_legacy_json(pair: Nodes, through: int, project: str) -> None:
    """Hosted and mirrored projects have their JSON, which no list calls stale, with absolute
    URLs from which the files come, and an ETag that works."""
    node = pair[through]
    path = f"/root/dev/pypi/{project}/json"
    answer = node.get(path)
    assert answer.status == 200
    document = answer.json()
    listed = ask(node, "list_packages_with_serial")
    assert int(answer.headers["x-pypi-last-serial"]) >= listed[project]
    assert document["info"]["name"] == project
    for file in document["urls"]:
        body = http("GET", urljoin(node.url, urlsplit(file["url"]).path)).body
        assert file["url"].startswith(node.url)
        assert len(body) == file["size"]
    assert node.get(path, if_none_match=answer.headers["etag"]).status == 304
    assert node.get(f"{path}/").json() == document
    version = node.get(f"/root/dev/pypi/{project}/1.0/json")
    assert version.json()["info"]["version"] == "1.0"
    assert node.get(f"/root/dev/pypi/{project.upper()}/json").status == 301
    assert node.get("/root/dev/pypi/nosuchthing/json").status == 404


def test_nodes_agree(pair: Nodes) -> None:
    """Both nodes give the same documents, but for their own URLs."""
    pair[1].wait_serial(pair[0].status()["serial"])
    for path in ("willow-basket/json", "willow-basket/1.9/json"):
        one, other = (
            n.get(f"/root/dev/pypi/{path}", X_Outside_Url="http://x.example") for n in pair
        )
        assert one.body == other.body
        assert one.headers["etag"] == other.headers["etag"]


@BOTH
def test_readers(pair: Nodes, through: int) -> None:
    """An index that is not for everybody answers 401, and its readers."""
    node = pair[through]
    for path in ("/root/secret/pypi/hush-basket/json", "/+search?index=root/secret&query=hush"):
        assert node.get(path).status == 401
        assert node.request("GET", path, headers=KEY).status == 200
    with pytest.raises(xmlrpc.client.ProtocolError) as caught:
        ask(node, "list_packages", index="root/secret")
    assert caught.value.errcode == 401
    user = f"root:{quote(ROOT_PASSWORD)}"
    assert ask(node, "list_packages", index="root/secret", user=user) == ["hush-basket"]
    everywhere = node.get("/+search?query=hush*").json()["result"]
    assert everywhere["hits"] == []

    def own() -> bool:
        answer = node.request("GET", "/+search?query=hush*", headers=KEY)
        return bool(answer.json()["result"]["hits"])

    eventually(own, 10, "root finds what is its own")


@BOTH
@pytest.mark.parametrize("body", [BOMB, b"garbage", b"", b"\x00" * 1_000_000], ids=len)
def test_attacks(pair: Nodes, through: int, body: bytes) -> None:
    """Bombs and garbage are Faults, and the node goes on."""
    node = pair[through]
    headers = {"Content-Type": "text/xml"}
    answer = node.request("POST", "/root/dev/", body=body, headers=headers)
    assert answer.status in (200, 400)
    assert b"Traceback" not in answer.body
    if answer.status == 200:
        with pytest.raises(xmlrpc.client.Fault):
            xmlrpc.client.loads(answer.body)
    assert node.get("/+ready").status == 200


@BOTH
def test_a_huge_call(pair: Nodes, through: int) -> None:
    """A call of more than a megabyte is refused."""
    headers = {"Content-Type": "text/xml"}
    answer = pair[through].request("POST", "/root/dev", body=b"x" * 1_100_000, headers=headers)
    assert answer.status == 413


@BOTH
def test_status(pair: Nodes, through: int) -> None:
    """The status says how far the search is."""

    def current() -> bool:
        status = pair[through].status()
        return bool(status["search"] == {
            "enabled": True, "building": False, "serial": status["serial"],
        })  # fmt: skip

    eventually(current, 10, "the search is current")


def test_restarts_and_lost_files(nodes: Cluster, tmp_path: Path) -> None:
    """A killed node, one whose search file is gone, and one without search."""
    primary = nodes.primary(root_password=ROOT_PASSWORD)
    primary.put_index("root/dev", ROOT_PASSWORD, type="stage")
    assert upload(primary, "root/dev", wheel("one", "1.0")).status == 200
    primary.kill()
    primary.start()
    wait_found(primary, "one", "one")
    primary.terminate()
    for path in primary.state_dir.glob("search.sqlite*"):
        path.unlink()
    primary.start()
    wait_found(primary, "one", "one")
    replica = nodes.replica(primary, "replica", "--no-search")
    with pytest.raises(xmlrpc.client.Fault, match="no-search"):
        found(replica, "one")
    assert replica.status()["search"]["enabled"] is False
    assert replica.get("/+search?query=x").status == 404
    assert not list(replica.state_dir.glob("search*"))
