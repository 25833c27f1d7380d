"""`pymirror resubmit` between real nodes: what only the old primary had comes to the new one."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.builders import multipart, wheel
from tests.functional.helpers import ROOT_PASSWORD, check_same_roots, upload, wait_visible
from tests.functional.test_docs_hosting import docs_zip
from tests.processes import Answer, Cluster, Node, basic, http

pytestmark = [pytest.mark.functional, pytest.mark.slow]

PYMIRROR = str(Path(sys.executable).with_name("pymirror"))
DEMO, OLD, GONE = wheel("demo", "1.0"), wheel("old", "1.0"), wheel("gone", "1.0")
RESULT = b'{"testenvs": {}}'


def root(node: Node, method: str, path: str, body: object = None) -> Answer:
    """A request of root; JSON."""
    headers = {**basic("root", ROOT_PASSWORD), "Content-Type": "application/json"}
    data = None if body is None else json.dumps(body).encode()
    answer = node.request(method, path, body=data, headers=headers)
    assert answer.status in (200, 201), answer
    return answer


def pymirror(*arguments: str) -> tuple[int, str]:
    """Run the command; its exit status and all that it printed."""
    ran = subprocess.run(
        [PYMIRROR, *arguments], capture_output=True, text=True, timeout=120, check=False
    )
    return ran.returncode, ran.stdout + ran.stderr


def resubmit(orphans: Path, node: Node, *options: str) -> tuple[int, str]:
    """Send the entries of a file."""
    return pymirror(
        "resubmit", str(orphans), "--url", node.url, "--password", ROOT_PASSWORD, *options
    )


def counts(printed: str) -> dict[str, list[int]]:
    """The table: sent, already there, skipped."""
    rows = [line.rsplit(maxsplit=3) for line in printed.splitlines()]
    return {
        row[0].strip(): [int(n) for n in row[1:]]
        for row in rows
        if len(row) == 4 and all(n.isdigit() for n in row[1:])
    }


def write_on(old: Node) -> None:
    """All that can be sent again, and some that can not."""
    root(old, "PUT", "/ann", {"password": "secret of ann"})
    root(old, "PATCH", "/bob", {"password": "another of bob"})
    options = {"type": "stage", "title": "Of Ann", "acl_upload": ["root"]}
    root(old, "PUT", "/ann/dev", {**options, "webhook_url": "http://u:p@127.0.0.1:9/hook"})
    for built in (DEMO, GONE):
        assert upload(old, "ann/dev", built).status == 200
    content_type, body = multipart(
        {":action": "doc_upload", "name": "demo", "version": "1.0"}, "demo.zip",
        docs_zip(**{"index.html": b"<p>hello</p>"}),
    )  # fmt: skip
    headers = {**basic("root", ROOT_PASSWORD), "Content-Type": content_type}
    assert old.request("POST", "/ann/dev/", body=body, headers=headers).status == 200
    link = urlsplit(old.file_urls("ann/dev", "demo")[DEMO.filename]).path
    tested = old.request("POST", link, body=RESULT, headers=basic("ann", "secret of ann"))
    assert tested.status == 200
    root(old, "POST", f"{link}/+yank")
    gone = urlsplit(old.file_urls("ann/dev", "gone")[GONE.filename]).path
    assert old.request("DELETE", gone, headers=basic("ann", "secret of ann")).status == 200
    root(old, "DELETE", urlsplit(old.file_urls("root/dev", "old")[OLD.filename]).path)


def replaced(cluster: Cluster) -> tuple[Node, Path]:
    """A new primary, and the file of what only the old one had."""
    old = cluster.primary(None, root_password=ROOT_PASSWORD)
    old.put_index("root/dev", ROOT_PASSWORD, type="stage")
    root(old, "PUT", "/bob", {"password": "secret of bob"})
    assert upload(old, "root/dev", OLD).status == 200
    first = cluster.replica(old, "first")
    check_same_roots([old, first])
    first.terminate()
    write_on(old)
    old.terminate()
    for node, *command in (
        (first, "promote", "--outside-url", first.url), (old, "demote", "--primary-url", first.url),
    ):  # fmt: skip
        folder = ["--state-dir", str(node.state_dir), "--secret-file", str(cluster.secret_file)]
        code, said = pymirror(*command, *folder, "--yes")
        assert code == 0, said
        if node is first:
            first = cluster.become(first, "pymirror-primary").start()
    (orphans,) = old.state_dir.glob("orphaned-1-*.log")
    return first, orphans


EACH = {
    "users": 2, "indexes": 1, "projects": 0, "releases": 1, "files": 1, "docs": 1,
    "tox results": 1,
}  # fmt: skip


def test_everything_comes_over(nodes: Cluster) -> None:
    """A dry run changes nothing; then users, indexes with their secrets, releases, files, docs and
    results are there, the rest is named, and a second run finds all there already."""
    new, orphans = replaced(nodes)
    serial = new.status()["serial"]
    code, said = resubmit(orphans, new, "--dry-run")
    assert (code, new.status()["serial"]) == (1, serial)
    assert counts(said) == {what: [number, 0, 0] for what, number in EACH.items()}

    code, said = resubmit(orphans, new)
    assert code == 1, said
    assert counts(said) == {
        **{what: [number, 0, 0] for what, number in EACH.items()}, "users": [1, 1, 0],
    }  # fmt: skip
    by_hand = [line for line in said.splitlines() if line.startswith("by hand")]
    for words in ("yank demo-1.0", "remove", "old-1.0", "gone-1.0", "devpi user -m bob"):
        assert any(words in line for line in by_hand), (words, by_hand)
    assert len(by_hand) == 4

    assert http("GET", wait_visible(new, "ann/dev", DEMO, 5)).body == DEMO.data
    assert new.page("ann/dev", "gone").status == 404
    assert new.get("/ann/dev/demo/1.0/+doc/index.html").status == 200
    links = new.get("/ann/dev/demo/1.0", accept="application/json").json()["result"]["+links"]
    assert [one["rel"] for one in links].count("toxresult") == 1
    options = new.get("/ann/dev", accept="application/json").json()["result"]
    assert options["title"] == "Of Ann"
    for user, password in (("ann", "secret of ann"), ("bob", "secret of bob")):
        login = json.dumps({"user": user, "password": password}).encode()
        headers = {"Content-Type": "application/json"}
        assert new.request("POST", "/+login", body=login, headers=headers).status == 200

    serial = new.status()["serial"]
    code, said = resubmit(orphans, new)
    assert (code, new.status()["serial"]) == (1, serial)
    assert counts(said) == {what: [0, number, 0] for what, number in EACH.items()}


def test_refused(nodes: Cluster) -> None:
    """A wrong password, and what is there otherwise, end with a reason."""
    new, orphans = replaced(nodes)
    other = wheel("demo", "1.0", files={"other.txt": b"x"})
    root(new, "PUT", "/ann", {"password": "x"})
    new.put_index("ann/dev", ROOT_PASSWORD, type="stage", acl_upload=["root"])
    assert upload(new, "ann/dev", other).status == 200
    code, said = pymirror("resubmit", str(orphans), "--url", new.url, "--password", "wrong")
    assert code == 1
    assert "401" in said
    code, said = resubmit(orphans, new)
    assert code == 1
    assert counts(said)["files"] == [0, 0, 1]
    assert "with other bytes" in said
    assert "with other values of" in said
