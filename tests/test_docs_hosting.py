"""Documentation out of zip archives: members, versions, headers, rights, and sources."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import shutil
import struct
import subprocess
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast
from urllib.parse import urljoin

import pytest
import pytest_twisted
from attrs import define, field, frozen
from hypothesis import given
from hypothesis import strategies as st
from klein import Klein
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport

from cluster.auth.acl import ANONYMOUS, Principal
from cluster.errors import NotFound, UpstreamError
from cluster.files import zipfiles
from cluster.files.store import FileStore
from cluster.files.zipfiles import DamagedArchive, Member, MemberReader, Tables, read_table
from cluster.log.changes import Change, Kind
from cluster.state.database import Database
from cluster.state.links import LocatedFile
from cluster.threads import Inline
from cluster.web import docs as docs_module
from cluster.web.docs import SANDBOX, STORAGE, DocsPages, type_of, wanted_version
from cluster.web.files import Files
from cluster.web.identity import Identity
from cluster.web.request import NodeRequest, NodeSite
from cluster.web.routes import OwnName
from primary.writer import Writer
from tests.fakes import as_clock, database, user_set, writer

PAGE = b"<h1>Demo</h1>" * 40
SCRIPT = b"'use strict';var found = localStorage.getItem('terms');"
BIG = bytes(range(256)) * 8192


def archive(members: dict[str, bytes], packing: int = zipfile.ZIP_DEFLATED) -> bytes:
    """A zip of these members."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", packing) as made:
        for name, data in members.items():
            made.writestr(zipfile.ZipInfo(name), data, packing)
    return out.getvalue()


DOCS = archive(
    {
        "index.html": PAGE, "_static/search.js": SCRIPT, "guide/index.html": b"guide",
        "empty.txt": b"", "big.bin": BIG, "a b/\u00fc.html": b"umlaut",
    }
)  # fmt: skip


@frozen
class Answer:
    """What came back; `broken` when the connection was aborted."""

    status: int
    headers: dict[str, str]
    body: bytes
    broken: bool


class Transport(StringTransport):
    """A connection that tells whether it was aborted, and that can be full."""

    producer: Any
    aborted = False
    is_slow = False

    def write(self, data: bytes) -> None:
        super().write(data)
        if self.is_slow and len(self.value()) > 100_000:
            self.producer.pauseProducing()

    def abortConnection(self) -> None:
        self.aborted = True


@define
class FakeIdentity:
    """Knows users by Basic credentials, whatever the password."""

    def node(self, request: NodeRequest) -> None:
        return None

    async def reader(self, request: NodeRequest) -> Principal:
        value = (request.header("Authorization") or "").removeprefix("Basic ")
        name = base64.b64decode(value).decode().partition(":")[0]
        return Principal(name) if name else ANONYMOUS


@define
class FakeFiles:
    """Fetches what it was given to have."""

    store: FileStore
    available: dict[str, bytes] = field(factory=dict)
    asked: list[str] = field(factory=list)

    def fetch(self, located: LocatedFile, path: str) -> FakeFiles:
        self.asked.append(path)
        return self

    async def done(self) -> None:
        if not self.available:
            raise UpstreamError("the zip could not be fetched: primary: no answer within 30 s")
        for data in self.available.values():
            await self.store.add_bytes(data)


@define
class Web:
    """The application under test."""

    app = Klein()
    app.url_map.merge_slashes = False
    app.url_map.converters["own"] = OwnName

    clock: Any
    identity: Any
    docs: DocsPages

    def common_headers(self) -> dict[bytes, bytes]:
        return {}

    def stream_handler(self, request: NodeRequest) -> None:
        return None

    def serve_hot(self, request: NodeRequest) -> bool:
        return False


docs_module.add_routes(Web.app)


@define
class Site:
    """A node that serves documentation; all its work is done at once."""

    web: Web
    database: Database
    store: FileStore
    files: FakeFiles
    writer: Writer

    def write(self, *changes: Change) -> None:
        Deferred.fromCoroutine(self.writer.write("root", lambda c: changes))

    def add(self, version: str, data: bytes, index: str = "ann/dev", *, keep: bool = True) -> str:
        """Upload documentation of `demo`; its sha256."""
        sha256 = digest(data)
        if keep:
            Deferred.fromCoroutine(self.store.add_bytes(data))
        named = {"index": index, "project": "demo", "name": "Demo", "version": version}
        held = {"filename": f"demo-{version}.doc.zip", "sha256": sha256, "size": len(data)}
        self.write(Change(Kind.DOCS_SET, {**named, "docs": held, "log": []}))
        return sha256

    def call(self, path: str, method: str = "GET", user: str = "", **headers: str) -> Answer:
        raw = self.connection(path, method, user, headers)
        return answer_of(raw)

    def connection(
        self, path: str, method: str, user: str, headers: dict[str, str], *, slow: bool = False
    ) -> Transport:
        lines = [f"{method} {path} HTTP/1.1", "Host: docs.example"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        if user:
            lines.append("Authorization: Basic " + base64.b64encode(f"{user}:x".encode()).decode())
        channel: Any = NodeSite(self.web.app.resource(), cast(Any, self.web)).buildProtocol(None)
        transport = Transport()
        channel.makeConnection(transport)
        transport.is_slow = slow
        channel.dataReceived("\r\n".join([*lines, "", ""]).encode())
        return transport


def digest(data: bytes) -> str:
    """The name of a file in the store."""
    return hashlib.sha256(data).hexdigest()


def answer_of(transport: Transport) -> Answer:
    head, _, body = bytes(transport.value()).partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    pairs = (line.partition(": ") for line in lines)
    status = int(first.split()[1]) if first else 0
    return Answer(status, {k.lower(): v for k, _, v in pairs}, body, transport.aborted)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    """ann/dev on top of bob/base."""
    with database() as state:
        store = FileStore(tmp_path / "files", Inline())
        pytest_twisted.blockon(Deferred.fromCoroutine(store.open()))
        identity, files = cast(Identity, FakeIdentity()), FakeFiles(store)
        pages = DocsPages(state, identity, store, cast(Files, files))
        made = Site(
            Web(as_clock(Clock()), identity, pages), state, store, files, writer(state)
        )  # fmt: skip
        made.write(
            user_set("ann"), user_set("bob"), index("bob/base"),
            index("ann/dev", bases=["bob/base"]),
        )  # fmt: skip
        yield made


def index(name: str, **options: object) -> Change:
    """A hosted index."""
    payload = {"index": name, "type": "stage", "options": {"bases": [], **options}}
    return Change(Kind.INDEX_SET, payload)


@given(
    packing=st.sampled_from([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED]),
    data=st.binary(max_size=4000), repeat=st.integers(1, 400), pad=st.integers(0, 3),
)  # fmt: skip
def test_members_come_out_whole(
    tmp_path_factory: pytest.TempPathFactory, packing: int, data: bytes, repeat: int, pad: int
) -> None:
    """What was packed comes out, in pieces of bounded size, wherever it is in the archive."""
    path = tmp_path_factory.mktemp("zip") / "docs.zip"
    members = {**{f"pad{n}": b"p" * n for n in range(pad)}, "x/y.html": data * repeat}
    path.write_bytes(b"#!" * pad + archive(members, packing))
    table = read_table(path)
    assert table.keys() == members.keys()
    pieces = unpack(path, table["x/y.html"])
    assert b"".join(pieces) == data * repeat
    assert all(len(piece) <= zipfiles.PIECE_BYTES for piece in pieces)


def unpack(path: Path, one: Member) -> list[bytes]:
    """All pieces of a member."""
    reader, pieces = MemberReader(path, one), []
    try:
        reader.open()
        while piece := reader.read():
            pieces.append(piece)
    finally:
        reader.close()
    return pieces


@pytest.mark.parametrize("name", ["../x", "a/../x", "/etc/x", "a\\b", "c:/x", "./x", "a//b", "d/"])
def test_members_that_are_not_served(tmp_path: Path, name: str) -> None:
    """Names that lead elsewhere, or nowhere, are not in the table."""
    path = tmp_path / "docs.zip"
    path.write_bytes(archive({name: b"x", "index.html": b"y"}))
    assert set(read_table(path)) == {"index.html"}


@pytest.mark.parametrize("packing", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_packings_that_are_not_served(tmp_path: Path, packing: int) -> None:
    """What can unpack to gigabytes in one step is left out."""
    path = tmp_path / "docs.zip"
    path.write_bytes(archive({"index.html": PAGE}, packing))
    assert read_table(path) == {}


def test_encrypted_members(tmp_path: Path) -> None:
    """A member with the flag of encryption is left out."""
    path = tmp_path / "docs.zip"
    data = bytearray(archive({"index.html": PAGE}))
    data[data.index(b"PK\1\2") + 8] |= 1
    path.write_bytes(data)
    assert read_table(path) == {}


@pytest.mark.parametrize("data", [b"", b"PK", b"no archive" * 99, DOCS[:-30], DOCS[:40]])
def test_no_archive(tmp_path: Path, data: bytes) -> None:
    """What is no zip archive is said to be none."""
    path = tmp_path / "docs.zip"
    path.write_bytes(data)
    with pytest.raises(DamagedArchive):
        read_table(path)


def test_a_giant_directory(tmp_path: Path) -> None:
    """A directory that claims to be gigabytes is refused, not read."""
    path = tmp_path / "docs.zip"
    size = zipfiles.MOST_DIRECTORY_BYTES + 1
    with path.open("wb") as out:
        out.truncate(size)
        out.seek(size)
        out.write(struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 1, 1, size, 0, 0))
    with pytest.raises(DamagedArchive, match="too large"):
        read_table(path)


@given(at=st.integers(0, 200), bit=st.integers(0, 7))
def test_damage_is_found(tmp_path_factory: pytest.TempPathFactory, at: int, bit: int) -> None:
    """Whatever bit of a member is wrong, nobody gets all its bytes as if they were right."""
    path = tmp_path_factory.mktemp("zip") / "docs.zip"
    good = archive({"x": PAGE[:150] + bytes(range(60))}, zipfile.ZIP_STORED)
    path.write_bytes(good)
    one = read_table(path)["x"]
    start = good.index(PAGE[:20])
    data = bytearray(good)
    data[start + at] ^= 1 << bit
    path.write_bytes(data)
    with pytest.raises(DamagedArchive):
        unpack(path, one)


def test_sizes_that_lie(tmp_path: Path) -> None:
    """A member that unpacks to more than its directory says stops there."""
    path = tmp_path / "docs.zip"
    path.write_bytes(archive({"bomb": bytes(50 << 20)}))
    honest = read_table(path)["bomb"]
    for size in (0, 10, honest.size - 1, honest.size + 1):
        with pytest.raises(DamagedArchive):
            unpack(path, Member(honest.offset, honest.packing, honest.packed, size, honest.crc))
    with pytest.raises(DamagedArchive):
        unpack(path, Member(honest.offset, 0, honest.packed, honest.size, honest.crc))


def test_tables_are_bounded() -> None:
    """The tables used last stay; all together they have a bound."""
    tables, one = Tables(most=10), Member(0, 0, 0, 0, 0)
    for number in range(5):
        tables.put(f"{number}", {f"{n}": one for n in range(4)})
        assert tables.get("0" if number < 2 else f"{number}") is not None
    assert [n for n in range(5) if tables.get(f"{n}")] == [3, 4]
    tables.put("big", {f"{n}": one for n in range(50)})
    assert [n for n in ("3", "4", "big") if tables.get(n)] == ["big"]


def test_page(site: Site) -> None:
    """A page comes out of the zip with its type, size, tag and a minute of caching."""
    sha256 = site.add("1.0", DOCS)
    answer = site.call("/ann/dev/demo/1.0/+doc/index.html")
    assert (answer.status, answer.body, answer.broken) == (200, PAGE, False)
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert answer.headers["content-length"] == str(len(PAGE))
    assert answer.headers["cache-control"] == "max-age=60"
    assert answer.headers["etag"].startswith(f'"{sha256[:32]}-')
    head = site.call("/ann/dev/demo/1.0/+doc/index.html", "HEAD")
    assert (head.status, head.body) == (200, b"")
    assert head.headers == answer.headers
    again = site.call("/ann/dev/demo/1.0/+doc/index.html", If_None_Match=answer.headers["etag"])
    assert (again.status, again.body) == (304, b"")
    changed = site.call("/ann/dev/demo/1.0/+doc/index.html", If_None_Match='"other"')
    assert changed.status == 200


def test_tags_differ(site: Site) -> None:
    """New documentation of the same version has new tags, so nobody keeps the old pages."""
    site.add("1.0", DOCS)
    first = site.call("/ann/dev/demo/1.0/+doc/index.html").headers["etag"]
    site.add("1.0", archive({"index.html": PAGE + b"!"}))
    answer = site.call("/ann/dev/demo/1.0/+doc/index.html", If_None_Match=first)
    assert (answer.status, answer.body) == (200, PAGE + b"!")


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("guide/", b"guide"), ("guide/index.html", b"guide"), ("empty.txt", b""),
        ("big.bin", BIG), ("a%20b/%C3%BC.html", b"umlaut"), ("index.html?highlight=x", PAGE),
    ],
)  # fmt: skip
def test_paths(site: Site, path: str, body: bytes) -> None:
    """Folders have their index; names are decoded; a query changes nothing."""
    site.add("1.0", DOCS)
    answer = site.call(f"/ann/dev/demo/1.0/+doc/{path}")
    assert (answer.status, answer.body) == (200, body)


@pytest.mark.parametrize(
    "path",
    ["demo/1.0/+doc/none.html", "demo/2.0/+doc/index.html", "other/1.0/+doc/index.html",
     "demo/1.0/+doc/guide", "demo/1.0/+doc/../index.html", "demo/1.0/+doc//index.html"],
)  # fmt: skip
def test_nothing_there(site: Site, path: str) -> None:
    """What is not there is 404."""
    site.add("1.0", DOCS)
    assert site.call(f"/ann/dev/{path}").status == 404


@pytest.mark.parametrize(
    ("path", "target"),
    [
        ("demo/1.0/+doc", "demo/1.0/+doc/index.html"),
        ("demo/1.0/+doc/", "demo/1.0/+doc/index.html"),
        ("Demo/1.0/+doc/guide/", "demo/1.0/+doc/guide/"),
        ("DEMO/latest/+doc/a%20b/%C3%BC.html?q=%20", "demo/latest/+doc/a%20b/%C3%BC.html?q=%20"),
        ("demo/1.0/+d", "demo/1.0/+doc/index.html"),
        ("demo/1.0/+d/", "demo/1.0/+doc/index.html"),
        ("demo/1.0/+d/guide/index.html?x", "demo/1.0/+doc/guide/index.html?x"),
    ],
)
def test_redirects(site: Site, path: str, target: str) -> None:
    """Whoever names no page gets the first; other names of the project lead to its own; each
    also when a front adds a path of its own.
    """
    site.add("1.0", DOCS)
    answer = site.call(f"/ann/dev/{path}")
    assert answer.status == 302
    for front in ("http://docs.example", "https://front.example/packages"):
        found = urljoin(f"{front}/ann/dev/{path}", answer.headers["location"])
        assert found == f"{front}/ann/dev/{target}"


def test_versions(site: Site) -> None:
    """latest and stable go by what has documentation; a version has many spellings."""
    for version in ("1.9", "1.10", "2.0rc1", "2.0.dev3"):
        site.add(version, archive({"v": version.encode()}))
    for asked, found in (
        ("latest", b"2.0rc1"), ("stable", b"1.10"), ("1.9", b"1.9"), ("1.9.0", None),
        ("2.0-rc.1", b"2.0rc1"), ("3", None),
    ):  # fmt: skip
        answer = site.call(f"/ann/dev/demo/{asked}/+doc/v")
        assert (answer.status, answer.body) == (200, found) if found else answer.status == 404


def test_no_stable_version() -> None:
    """Without a release that is stable there is no stable documentation."""
    assert wanted_version("stable", {"1.0rc1", "whatever"}) is None
    assert wanted_version("latest", {"1.0rc1", "whatever"}) == "1.0rc1"
    assert wanted_version("latest", set()) is None


def test_bases(site: Site) -> None:
    """The first index in the chain that has documentation of the version answers."""
    site.add("1.0", archive({"v": b"base 1"}), "bob/base")
    site.add("2.0", archive({"v": b"base 2"}), "bob/base")
    site.add("1.0", archive({"v": b"own 1"}))
    assert site.call("/ann/dev/demo/1.0/+doc/v").body == b"own 1"
    assert site.call("/bob/base/demo/1.0/+doc/v").body == b"base 1"
    assert site.call("/ann/dev/demo/latest/+doc/v").body == b"base 2"


def test_rights(site: Site) -> None:
    """A restricted index asks for credentials, then serves for its readers alone; as a base it
    gives nothing to others, and nothing says that there is more.
    """
    site.add("1.0", archive({"v": b"open"}))
    site.add("2.0", archive({"v": b"secret"}), "bob/base")
    site.write(index("bob/base", acl_pkg_read=["bob"]))
    path = "/bob/base/demo/2.0/+doc/v"
    assert site.call(path).status == 401
    assert site.call(path, user="carl").status == 404
    answer = site.call(path, user="bob")
    assert (answer.body, answer.headers["cache-control"]) == (b"secret", "max-age=60, private")
    assert site.call("/ann/dev/demo/2.0/+doc/v").status == 404
    assert site.call("/ann/dev/demo/latest/+doc/v").body == b"open"
    assert site.call("/ann/dev/demo/latest/+doc/v", user="bob").body == b"secret"


def test_headers_keep_docs_apart(site: Site) -> None:
    """Whatever the type, a page has an origin of its own, and its type is not guessed."""
    site.add("1.0", archive({"index.html": PAGE, "x.svg": b"<svg/>", "y": b"<html>"}))
    for name, content_type in (
        ("index.html", "text/html; charset=utf-8"), ("x.svg", "image/svg+xml"),
        ("y", "application/octet-stream"),
    ):  # fmt: skip
        answer = site.call(f"/ann/dev/demo/1.0/+doc/{name}")
        assert answer.headers["content-type"] == content_type
        assert answer.headers["content-security-policy"] == SANDBOX
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "same-origin"
        assert "access-control-allow-origin" not in answer.headers
    directives = dict(part.strip().partition(" ")[::2] for part in SANDBOX.split(";"))
    assert "allow-same-origin" not in directives["sandbox"]
    assert "allow-top-navigation" not in directives["sandbox"].split()


@pytest.mark.parametrize(
    ("origin", "referer", "allowed"),
    [
        ("null", "http://docs.example/ann/dev/demo/1.0/+doc/search.html?q=x", True),
        ("null", "http://docs.example/ann/dev/other/1.0/+doc/search.html", False),
        ("null", "http://evil.example/ann/dev/demo/1.0/+doc/search.html", False),
        ("null", "http://[", False),
        ("null", "", False),
        ("http://evil.example", "http://docs.example/ann/dev/demo/1.0/+doc/x", False),
    ],
)
def test_pages_load_each_other(site: Site, origin: str, referer: str, allowed: bool) -> None:
    """Only pages of the same documentation may read it by script."""
    site.add("1.0", DOCS)
    answer = site.call("/ann/dev/demo/1.0/+doc/index.html", Origin=origin, Referer=referer)
    assert answer.headers.get("access-control-allow-origin") == ("null" if allowed else None)
    assert "access-control-allow-credentials" not in answer.headers


def test_scripts_find_storage(site: Site) -> None:
    """A script comes behind what stands in for localStorage, sizes and tags agreeing."""
    site.add("1.0", DOCS)
    answer = site.call("/ann/dev/demo/1.0/+doc/_static/search.js")
    assert answer.body == STORAGE + SCRIPT
    assert answer.headers["content-length"] == str(len(STORAGE + SCRIPT))
    assert answer.headers["content-type"] == "text/javascript; charset=utf-8"
    assert b"\n" not in STORAGE


_NODE = shutil.which("node")


@pytest.mark.skipif(_NODE is None, reason="node is not installed (Debian: apt-get install nodejs)")
def test_storage_in_a_sandbox() -> None:
    """Where reading localStorage is refused, as in a sandbox, the stand-in keeps what it is
    given; a storage that is there stays.
    """
    assert _NODE is not None
    program = """
        const vm = require('vm');
        const run = (setup) => {
            const context = vm.createContext({out: []});
            vm.runInContext('var window = globalThis;' + setup, context);
            vm.runInContext(SCRIPT + `
                localStorage.setItem('a', 1); out.push(localStorage.getItem('a'));
                out.push(localStorage.getItem('b'), localStorage.length, localStorage.key(0));
                localStorage.removeItem('a'); out.push(localStorage.getItem('a'));`, context);
            return context.out;
        };
        const refused = "Object.defineProperty(window, 'localStorage', {configurable: true," +
            "get() { throw new Error('SecurityError'); }});";
        const there = "window.localStorage = {length: 7, key: () => 'k', getItem: () => 'old'," +
            "setItem() {}, removeItem() {}};";
        const worker = vm.runInNewContext(SCRIPT + "'fine'");
        console.log(JSON.stringify([run(refused), run(there), worker]));
    """.replace("SCRIPT", json.dumps(STORAGE.decode()))
    done = subprocess.run([_NODE, "-e", program], capture_output=True, timeout=30, check=True)
    assert json.loads(done.stdout) == [
        ["1", None, 1, "a", None], ["old", "old", 7, "k", "old"], "fine"
    ]  # fmt: skip


def test_types() -> None:
    """Types go by the name alone, the same on every machine."""
    for name, content_type in (
        ("a.html", "text/html; charset=utf-8"), ("a.css", "text/css; charset=utf-8"),
        ("a.js", "text/javascript; charset=utf-8"), ("a.woff2", "font/woff2"),
        ("a.png", "image/png"), ("a.json", "application/json; charset=utf-8"),
        ("a.tar.gz", "application/octet-stream"), ("objects.inv", "application/octet-stream"),
    ):  # fmt: skip
        assert type_of(name) == content_type


def test_fetched_once(site: Site) -> None:
    """A zip that is not here is fetched as a whole, by the path under which nodes serve it."""
    sha256 = site.add("1.0", DOCS, keep=False)
    site.files.available["zip"] = DOCS
    for _ in range(2):
        assert site.call("/ann/dev/demo/1.0/+doc/index.html").body == PAGE
    assert site.files.asked == [
        f"/ann/dev/+f/{sha256[:3]}/{sha256[3:16]}/demo-1.0.doc.zip"
    ]  # fmt: skip


def test_nobody_has_it(site: Site) -> None:
    """While nobody who has the zip answers, the reason is told."""
    site.add("1.0", DOCS, keep=False)
    answer = site.call("/ann/dev/demo/1.0/+doc/index.html")
    assert answer.status == 502
    assert b"could not be fetched" in answer.body


def test_broken_archives(site: Site) -> None:
    """An archive that cannot be read is an error; a member that turns out wrong before anything
    was sent too, and afterwards a broken connection, not an end that looks like one.
    """
    site.add("1.0", b"not a zip")
    assert site.call("/ann/dev/demo/1.0/+doc/index.html").status == 500
    stored = archive({"small": PAGE, "large": BIG}, zipfile.ZIP_STORED)
    wrong = bytearray(stored)
    wrong[stored.index(PAGE) + 5] ^= 1
    wrong[stored.index(BIG) + len(BIG) - 1] ^= 1
    site.add("2.0", bytes(wrong))
    assert site.call("/ann/dev/demo/2.0/+doc/small").status == 500
    answer = site.call("/ann/dev/demo/2.0/+doc/large")
    assert (answer.status, answer.broken) == (200, True)
    assert len(answer.body) < len(BIG)


def test_slow_clients(site: Site) -> None:
    """A connection that is full gets no more until it is empty: a page is never held whole."""
    site.add("1.0", archive({"big": BIG}, zipfile.ZIP_STORED))
    transport = site.connection("/ann/dev/demo/1.0/+doc/big", "GET", "", {}, slow=True)
    held = len(transport.value())
    assert held < 2 * zipfiles.PIECE_BYTES
    transport.is_slow = False
    transport.producer.resumeProducing()
    assert answer_of(transport).body == BIG


def test_a_client_that_leaves(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who leaves gets no more, and the archive is closed."""
    closed: list[MemberReader] = []
    close = MemberReader.close

    def closing(reader: MemberReader) -> None:
        closed.append(reader)
        close(reader)

    monkeypatch.setattr(MemberReader, "close", closing)
    site.add("1.0", archive({"big": BIG}, zipfile.ZIP_STORED))
    transport = site.connection("/ann/dev/demo/1.0/+doc/big", "GET", "", {}, slow=True)
    assert closed == []
    transport.producer.stopProducing()
    assert len(closed) == 1


def test_unknown_member() -> None:
    """The error names what was asked for."""
    with pytest.raises(NotFound, match=r"'x\.html'"):
        zipfiles.member({}, "x.html")
