"""The legacy JSON documents (standards L1-L4)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
import pytest_twisted

from cluster.errors import AuthenticationRequired, NotFound
from cluster.log.changes import Change, Kind
from cluster.names import IndexName
from cluster.web.legacy import package_type, python_version
from cluster.web.replies import Reply
from tests.indexed import (
    DEV,
    PYPI,
    FakeRequest,
    Node,
    Web,
    index_set,
    listed,
    release,
    running_node,
)

SHA = "ab" * 32
ROOT = "http://node.example:3141/root/dev"


def added(name: str, filename: str, version: str, index: str = DEV, **facts: Any) -> Change:
    file = {"filename": filename, "version": version, "hashes": {"sha256": SHA}, **facts}
    return Change(Kind.FILE_ADDED, {"index": index, "project": name, "name": name, "file": file})


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    with running_node(tmp_path) as made:
        yield made


async def get(
    node: Node, name: str, version: str | None = None, index: IndexName = DEV, **headers: str
) -> Reply:
    named = {key.replace("_", "-"): value for key, value in headers.items()}
    request = FakeRequest(path=b"/x/json", headers=named)
    return await Web(node).legacy.project(request.real(), index, name, version)


@pytest_twisted.ensureDeferred
async def test_a_project(node: Node) -> None:
    """The document of a project says what L2 lists: metadata of the latest release, and every
    file of every release with absolute URL, digests, times and kinds."""
    node.log(
        release("Foo", "1.0", summary="old"),
        release("Foo", "2.0", summary="A thing", classifiers=["A :: B"], license_file=["L"],
                project_urls=["Docs, https://d.example/x,y"], requires_python=">=3.9"),
        added("foo", "foo-1.0.tar.gz", "1.0", yanked="broken", size=7,
              upload_time="2024-05-06T07:08:09.123456Z"),
        added("foo", "foo-2.0-py3-none-any.whl", "2.0", core_metadata="cd" * 32),
    )  # fmt: skip
    reply = await get(node, "foo")
    document = orjson.loads(reply.body)
    info = document["info"]
    expected = {
        "name": "Foo", "version": "2.0", "summary": "A thing", "classifiers": ["A :: B"],
        "license_files": ["L"], "project_urls": {"Docs": "https://d.example/x,y"},
        "requires_python": ">=3.9", "yanked": False, "yanked_reason": None, "author": None,
    }  # fmt: skip
    assert {key: info[key] for key in expected} == expected
    assert set(document["releases"]) == {"1.0", "2.0"}
    assert document["urls"] == document["releases"]["2.0"]
    assert document["vulnerabilities"] == []
    (old,) = document["releases"]["1.0"]
    expected_file = {
        "filename": "foo-1.0.tar.gz", "packagetype": "sdist", "python_version": "source",
        "size": 7, "digests": {"sha256": SHA}, "has_sig": False, "downloads": -1,
        "upload_time": "2024-05-06T07:08:09",
        "upload_time_iso_8601": "2024-05-06T07:08:09.123456Z", "yanked": True,
        "yanked_reason": "broken", "comment_text": "", "requires_python": None,
        "url": f"{ROOT}/+f/{SHA[:3]}/{SHA[3:16]}/foo-1.0.tar.gz",
    }  # fmt: skip
    assert {key: old[key] for key in expected_file} == expected_file
    assert document["urls"][0]["core-metadata"] == {"sha256": "cd" * 32}


@pytest_twisted.ensureDeferred
async def test_a_release(node: Node) -> None:
    """The document of a release has its files and metadata, in any spelling of its version, and
    not the others'."""
    node.log(release("foo", "1.0", summary="old"), added("foo", "foo-1.0.tar.gz", "1.0", yanked=""),
             release("foo", "2.0"), added("foo", "foo-2.0.tar.gz", "2.0"))  # fmt: skip
    document = orjson.loads((await get(node, "foo", "v1.0")).body)
    assert document["info"]["version"] == "1.0"
    assert document["info"]["summary"] == "old"
    assert document["info"]["yanked"] is True
    assert "releases" not in document
    assert [f["filename"] for f in document["urls"]] == ["foo-1.0.tar.gz"]
    with pytest.raises(NotFound):
        await get(node, "foo", "9")
    with pytest.raises(NotFound):
        await get(node, "absent")
    with pytest.raises(NotFound):
        await get(node, "a b")


@pytest_twisted.ensureDeferred
async def test_names_are_normalized(node: Node) -> None:
    """Another spelling is sent to the normalized name (L1)."""
    reply = await get(node, "Foo_Bar")
    assert (reply.status, reply.headers["Location"]) == (301, "/root/dev/pypi/foo-bar/json")
    reply = await get(node, "Foo", "1/x")
    assert reply.headers["Location"] == "/root/dev/pypi/foo/1%2Fx/json"


@pytest_twisted.ensureDeferred
async def test_serials_and_etags(node: Node) -> None:
    """The header's serial is that of the document and never lower than what the list says (L4);
    an unchanged document is 304."""
    file = {"filename": "foo-1.tar.gz", "version": "1", "url": "https://f.example/foo-1.tar.gz"}
    node.log(Change(Kind.MIRROR_PROJECT, {"index": PYPI, "project": "foo", "files": [file]}))
    first = await get(node, "foo", index=PYPI)
    node.log(listed("foo"))
    second = await get(node, "foo", index=PYPI)
    assert int(second.headers["X-PyPI-Last-Serial"]) == node.at.serial
    assert orjson.loads(second.body)["last_serial"] == node.at.serial
    assert first.headers["ETag"] != second.headers["ETag"]
    again = await get(node, "foo", index=PYPI, If_None_Match=second.headers["ETag"])
    assert (again.status, again.body) == (304, b"")
    info = orjson.loads(second.body)["info"]
    assert (info["name"], info["version"], info["summary"]) == ("foo", "1", None)


@pytest_twisted.ensureDeferred
async def test_a_mirror_is_asked_first(node: Node) -> None:
    """A mirrored project's document is as fresh as its simple page."""
    web = Web(node)
    with pytest.raises(NotFound):
        await web.legacy.project(FakeRequest().real(), PYPI, "foo")
    assert web.upstreams.asked == [(PYPI, "foo")]


@pytest_twisted.ensureDeferred
async def test_bases_and_readers(node: Node) -> None:
    """What is inherited is shown with its metadata; what the reader may not read is not there."""
    secret = IndexName("joe/secret")
    node.log(
        index_set(secret, acl_pkg_read=["joe"]),
        index_set("joe/top", bases=[DEV, secret]),
        release("foo", "1", summary="inherited"), added("foo", "foo-1.tar.gz", "1"),
        release("foo", "2", index=secret, summary="hush"),
        added("foo", "foo-2.tar.gz", "2", index=secret),
    )  # fmt: skip
    top = IndexName("joe/top")
    seen = orjson.loads((await get(node, "foo", index=top, User="ann")).body)
    assert (seen["info"]["version"], seen["info"]["summary"]) == ("1", "inherited")
    assert set(seen["releases"]) == {"1"}
    own = orjson.loads((await get(node, "foo", index=top, User="joe")).body)
    assert (own["info"]["summary"], set(own["releases"])) == ("hush", {"1", "2"})
    with pytest.raises(AuthenticationRequired):
        await get(node, "foo", index=secret)
    with pytest.raises(NotFound):
        await get(node, "foo", index=secret, User="ann")


@pytest_twisted.ensureDeferred
async def test_a_quarantined_project_offers_nothing(node: Node) -> None:
    """As on its simple page, no file and no release of it is shown (PEP 792)."""
    node.log(release("foo", "1"), added("foo", "foo-1.tar.gz", "1"))
    status = {"index": DEV, "project": "foo", "status": {"status": "quarantined"}}
    node.log(Change(Kind.PROJECT_STATUS, status))
    document = orjson.loads((await get(node, "foo")).body)
    assert (document["releases"], document["urls"]) == ({}, [])
    with pytest.raises(NotFound):
        await get(node, "foo", "1")


@pytest_twisted.ensureDeferred
async def test_outside_urls(node: Node) -> None:
    """Behind a front, file URLs begin with what the clients see."""
    node.log(release("foo", "1"), added("foo", "foo-1.tar.gz", "1"))
    reply = await get(node, "foo", X_Outside_Url="https://front.example/pkg/")
    assert orjson.loads(reply.body)["urls"][0]["url"].startswith(
        "https://front.example/pkg/root/dev/+f/"
    )


@pytest.mark.parametrize(
    ("filename", "kind", "python"),
    [
        ("a-1-py3-none-any.whl", "bdist_wheel", "py3"),
        ("a-1-1build-cp311.cp312-abi3-linux_x86_64.whl", "bdist_wheel", "cp311.cp312"),
        ("a-1-py2.7.egg", "bdist_egg", "2.7"), ("a-1.win32-py2.6.exe", "bdist_wininst", "2.6"),
        ("a-1.win32.exe", "bdist_wininst", "any"), ("a-1.tar.bz2", "sdist", "source"),
        ("a-1.zip", "sdist", "source"), ("x.whl", "bdist_wheel", "any"),
    ],
)  # fmt: skip
def test_kinds_of_files(filename: str, kind: str, python: str) -> None:
    """The kind and Python of a file are read from its name, also from odd ones."""
    assert (package_type(filename), python_version(filename)) == (kind, python)
