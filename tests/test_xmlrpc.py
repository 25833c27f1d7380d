"""XML-RPC: pip's search, what old mirrors ask, and calls that are attacks."""

from __future__ import annotations

import xmlrpc.client
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import orjson
import pytest
import pytest_twisted
from hypothesis import given
from hypothesis import strategies as st

from cluster.errors import AuthenticationRequired, InvalidRequest, NotFound
from cluster.log.changes import Change, Kind
from cluster.names import IndexName
from cluster.web import xmllists
from cluster.web.xmlcalls import answer, fault, names_document, parse_call, serials_document
from cluster.web.xmlrpc import is_xmlrpc
from tests.indexed import (
    DEV,
    OTHER,
    PYPI,
    FakeRequest,
    Node,
    Web,
    index_set,
    listed,
    release,
    running_node,
)

BOMB = b"""<?xml version="1.0"?><!DOCTYPE x [<!ENTITY a "aaaaaaaaaa">
<!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">]>
<methodCall><methodName>&b;</methodName></methodCall>"""
EXTERNAL = b"""<?xml version="1.0"?><!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/passwd">]>
<methodCall><methodName>search</methodName><params><param><value>&a;</value></param></params></methodCall>"""


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    with running_node(tmp_path) as made:
        yield made


async def post(node: Node, body: bytes, index: IndexName = DEV, **headers: str) -> Any:
    """The result of a call; raises Fault."""
    request = FakeRequest(path=b"/x", body=body, headers=headers, method=b"POST")
    reply = await Web(node).xmlrpc.call(request.real(), index)
    if reply is None:
        assert request.finished
        assert request.code == 200
        document = request.written
    else:
        assert (reply.status, reply.content_type) == (200, "text/xml; charset=utf-8")
        document = reply.body
    (result,), _ = xmlrpc.client.loads(document)
    return result


async def call(node: Node, method: str, *arguments: Any, **how: Any) -> Any:
    return await post(node, xmlrpc.client.dumps(arguments, method).encode(), **how)


@pytest_twisted.ensureDeferred
async def test_search(node: Node) -> None:
    """Hits have devpi's shape, with the index in the summary, over all bases, the nearest index
    for a name on several; the operator may be left out."""
    node.log(
        index_set(DEV, bases=[OTHER, PYPI]),
        release("Baskets", "1.0", summary="Weaves \x01 willow"),
        release("baskets", "0.1", index=OTHER, summary="Inherited willow"),
        release("other", "2.0", index=OTHER, summary="no basket, but willow"),
        listed("willow-tools"),
    )  # fmt: skip
    node.settle()
    spec = {"name": ["willow"], "summary": ["willow"]}
    hits = await call(node, "search", spec, "or")
    assert [hit["_pypi_ordering"] for hit in hits] == [0, 1, 2]
    by_name = {hit.pop("name"): hit for hit in hits}
    assert set(by_name) == {"Baskets", "other", "willow-tools"}
    assert by_name["Baskets"]["summary"] == "[root/dev] Weaves  willow"
    assert by_name["Baskets"]["version"] == "1.0"
    assert by_name["willow-tools"] == {
        **by_name["willow-tools"],
        "version": "0",
        "summary": "[root/pypi]",
    }
    assert await call(node, "search", spec, "and") == []
    both = {"name": "bask", "summary": "weaves"}
    assert [hit["name"] for hit in await call(node, "search", both)] == ["Baskets"]
    assert [hit["name"] for hit in await call(node, "search", {"name": "willow"}, index=PYPI)] == [
        "willow-tools"
    ]


@pytest_twisted.ensureDeferred
async def test_a_search_asks_for_the_names_of_mirrors(node: Node) -> None:
    """Upstreams' lists are fetched when a search wants them, and the search does not wait."""
    web = Web(node)
    body = xmlrpc.client.dumps(({"name": "x"},), "search").encode()
    await web.xmlrpc.call(FakeRequest(body=body, method=b"POST").real(), PYPI)
    assert web.upstreams.asked == [(PYPI, "")]


@pytest_twisted.ensureDeferred
async def test_lists(node: Node) -> None:
    """All names of an index and its bases, and the serial of each; and the last serial."""
    node.log(index_set(DEV, bases=[PYPI]), release("A_b", "1"), listed("<Odd>&", "zope"))
    assert await call(node, "list_packages") == ["<Odd>&", "A_b", "zope"]
    serial = node.at.serial
    expected = {"<Odd>&": serial, "A_b": serial - 1, "zope": serial}
    assert await call(node, "list_packages_with_serial") == expected
    assert await call(node, "changelog_last_serial") == serial
    node.log(release("new", "1"))
    assert "new" in await call(node, "list_packages")
    node.log(Change(Kind.PROJECT_REMOVED, {"index": DEV, "project": "new", "name": "new"}))
    assert "new" not in await call(node, "list_packages_with_serial")
    assert await call(node, "list_packages", index=OTHER) == []
    assert await call(node, "list_packages_with_serial", index=OTHER) == {}


@pytest_twisted.ensureDeferred
async def test_changes(node: Node) -> None:
    """What happened behind a serial, on the index and its bases alone, in the public index's
    words; staged changes when they are published."""
    start = node.at.serial
    where = {"index": DEV, "project": "a", "name": "A"}
    file = {"filename": "a-1-py3-none-any.whl", "version": "1", "hashes": {"sha256": "ab" * 32}}
    staged = release("late", "1")
    node.log(
        release("A", "1"),
        Change(Kind.FILE_ADDED, {**where, "file": file}),
        release("elsewhere", "1", index=OTHER),
        Change(Kind.FILE_YANKED, {**where, "filenames": [file["filename"]], "yanked": "bad"}),
        Change(staged.kind, {**staged.payload, "stage": "s"}),
        Change(Kind.STAGE_PUBLISHED, {"index": DEV, "stage": "s"}),
        Change(Kind.FILE_REMOVED, {**where, "filename": file["filename"]}),
        listed("mirrored"),
    )  # fmt: skip
    rows = await call(node, "changelog_since_serial", start)
    assert [(row[0], row[1], row[3], row[4] - start) for row in rows] == [
        ("A", "1", "new release", 1),
        ("A", "1", "add py3 file a-1-py3-none-any.whl", 2),
        ("A", "1", "yank release", 4),
        ("a", None, "update", 6),
        ("late", None, "update", 6),
        ("A", "1", "remove file a-1-py3-none-any.whl", 7),
    ]
    assert {row[2] for row in rows} == {1_700_000_000}
    assert await call(node, "changelog_since_serial", node.at.serial) == []
    mirrored = await call(node, "changelog_since_serial", -5, index=PYPI)
    assert [(row[0], row[3]) for row in mirrored] == [("mirrored", "create")]


@pytest_twisted.ensureDeferred
async def test_changes_are_bounded(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who reads on from the last serial of a cut answer gets every row once."""
    monkeypatch.setattr(xmllists, "MAX_ROWS", 7)
    monkeypatch.setattr(xmllists, "_SCAN_ENTRIES", 2)
    for n in range(6):
        node.log(listed(*(f"p{n}-{m}" for m in range(3))))
    seen: list[str] = []
    at = 0
    while rows := await call(node, "changelog_since_serial", at, index=PYPI):
        assert len(rows) <= 7
        seen += [row[0] for row in rows]
        at = rows[-1][4]
    assert sorted(seen) == sorted(f"p{n}-{m}" for n in range(6) for m in range(3))


@pytest_twisted.ensureDeferred
async def test_releases(node: Node) -> None:
    """The old questions for one project are answered from its legacy document."""
    where = {"index": DEV, "project": "a", "name": "a"}
    for version in ("1", "2"):
        filename = f"a-{version}.tar.gz"
        file: dict[str, Any] = {"filename": filename, "version": version, "size": 5 << 30}
        file["url"] = f"https://f.example/{filename}"
        node.log(release("a", version, summary="S"))
        node.log(Change(Kind.FILE_ADDED, {**where, "file": file}))
    assert await call(node, "package_releases", "a") == ["2", "1"]
    (url,) = await call(node, "release_urls", "a", "1")
    assert (url["filename"], url["size"]) == ("a-1.tar.gz", float(5 << 30))
    assert (await call(node, "release_data", "a", "2"))["summary"] == "S"
    assert await call(node, "package_releases", "absent") == []
    assert await call(node, "release_urls", "a", "9") == []
    assert await call(node, "release_data", "absent", "9") == {}


@pytest_twisted.ensureDeferred
async def test_readers(node: Node) -> None:
    """Who may not read an index learns nothing of it; bases that may not be read are left out."""
    secret = IndexName("joe/secret")
    node.log(index_set(secret, acl_pkg_read=["joe"]), index_set(DEV, bases=[secret]),
             release("hush", "1", index=secret), release("open", "1"))  # fmt: skip
    node.settle()
    with pytest.raises(AuthenticationRequired):
        await call(node, "list_packages", index=secret)
    with pytest.raises(NotFound):
        await call(node, "list_packages", index=secret, User="ann")
    with pytest.raises(NotFound):
        await call(node, "list_packages", index=IndexName("no/where"))
    spec = {"name": ["hush", "open"]}
    for user, expected in (("ann", ["open"]), ("joe", ["hush", "open"])):
        hits = await call(node, "search", spec, "or", User=user)
        assert sorted(hit["name"] for hit in hits) == expected
        assert await call(node, "list_packages", User=user) == expected
        rows = await call(node, "changelog_since_serial", 0, User=user)
        assert sorted({row[0] for row in rows}) == expected


@pytest.mark.parametrize(
    "body",
    [
        b"", b"garbage", b"<methodCall/>", b"<a><b></a>", BOMB, EXTERNAL, b"\xff\xfe\x00",
        b"<" * 1_000,
        b"<methodCall><methodName>search</methodName>",
        b"<methodCall><params/></methodCall>",
        b"<?xml version='1.0'?><methodResponse><fault><value>x</value></fault></methodResponse>",
        b"<methodCall><methodName>x</methodName><params><param><value><int>" + b"9" * 10_000
        + b"</int></value></param></params></methodCall>",
        b"<methodCall><methodName>x</methodName>" + b"<params><param><value><array><data>" * 20_000,
        xmlrpc.client.dumps((), "system.shutdown").encode(),
        xmlrpc.client.dumps((), "search").encode(),
        xmlrpc.client.dumps((), "__class__").encode(),
        xmlrpc.client.dumps(("x",), "search").encode(),
        xmlrpc.client.dumps(({"name": [1]},), "search").encode(),
        xmlrpc.client.dumps(({"bogus": "x"},), "search").encode(),
        xmlrpc.client.dumps(({"name": "x"}, "nand"), "search").encode(),
        xmlrpc.client.dumps(({"name": "x"}, ["or"]), "search").encode(),
        xmlrpc.client.dumps(({"name": "x"}, "or", 3), "search").encode(),
        xmlrpc.client.dumps(("1",), "changelog_since_serial").encode(),
        xmlrpc.client.dumps((True,), "changelog_since_serial").encode(),
        xmlrpc.client.dumps((1,), "package_releases").encode(),
        xmlrpc.client.dumps(("a b",), "package_releases").encode(),
        xmlrpc.client.dumps(("a", 1), "release_data").encode(),
    ],
)  # fmt: skip
@pytest_twisted.ensureDeferred
async def test_bad_calls(node: Node, body: bytes) -> None:
    """Whatever is wrong with a call is a Fault with devpi's code, and a short one."""
    with pytest.raises(xmlrpc.client.Fault) as caught:
        await post(node, body)
    assert caught.value.faultCode == 1
    assert len(caught.value.faultString) < 300
    assert "root:" not in caught.value.faultString


@pytest_twisted.ensureDeferred
async def test_search_that_is_off(node: Node) -> None:
    """A node without search says so."""
    await node.search.stop()
    node.search = node.new_index(enabled=False)
    with pytest.raises(xmlrpc.client.Fault, match="no-search"):
        await call(node, "search", {"name": "x"})


@given(st.binary(max_size=300) | st.text(max_size=200).map(str.encode))
def test_any_bytes(data: bytes) -> None:
    """Any body is a call or a Fault."""
    for body in (data, b"<methodCall><methodName>x</methodName><params>" + data):
        with suppress(xmlrpc.client.Fault):
            assert isinstance(parse_call(body).method, str)


@given(st.text(alphabet=st.characters(), max_size=50))
def test_any_text_can_be_answered(text: str) -> None:
    """Answers are well-formed whatever text is in them (X4)."""
    for document in (answer([text, {text: text}]), fault(text)):
        with suppress(xmlrpc.client.Fault):
            xmlrpc.client.loads(document)
    for pieces, count in ((names_document([text] * 3), 3), (serials_document([(text, 3)]), 1)):
        (found,), _ = xmlrpc.client.loads(b"".join(pieces))
        assert isinstance(found, list | dict)
        assert len(found) == count


@pytest.mark.parametrize(
    ("kind", "expected"),
    [("text/xml", True), ("Text/XML; charset=utf-8", True), ("application/xml", True),
     ("application/json", False), ("multipart/form-data; boundary=text/xml", False)],
)  # fmt: skip
def test_calls_are_known_by_their_type(kind: str, expected: bool) -> None:
    """Only a POST of XML is a call; uploads and JSON go to others."""
    assert is_xmlrpc(FakeRequest(headers={"Content-Type": kind}, method=b"POST").real()) is expected
    assert is_xmlrpc(FakeRequest(headers={"Content-Type": kind}).real()) is False


@pytest_twisted.ensureDeferred
async def test_the_search_as_json(node: Node) -> None:
    """``/+search`` gives pages of hits over one index or all that may be read."""
    secret = IndexName("joe/secret")
    node.log(index_set(secret, acl_pkg_read=["joe"]), release("hush", "1", index=secret),
             *(release(f"name-{n}", "1", summary="many") for n in range(60)))  # fmt: skip
    node.settle()

    async def find(user: str = "ann", **args: str) -> Any:
        given = {key.encode(): [value.encode()] for key, value in args.items()}
        request = FakeRequest(headers={"User": user}, args=given)
        reply = await Web(node).search.find(request.real())
        return orjson.loads(reply.body)["result"]

    first, second = await find(query="many"), await find(query="many", page="2")
    assert (len(first["hits"]), first["more"]) == (50, True)
    assert (len(second["hits"]), second["more"]) == (10, False)
    assert (await find(query="hush"))["hits"] == (await find())["hits"] == []
    assert (await find("joe", query="hush"))["hits"][0]["index"] == secret
    assert (await find("joe", query="hush", index=DEV))["hits"] == []
    with pytest.raises(InvalidRequest):
        await find(page="0")
    with pytest.raises(NotFound):
        await find(index=secret)
