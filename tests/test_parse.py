"""Reading upstream pages: their facts survive, their faults are named, nothing crashes."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator
from time import perf_counter
from typing import Any
from urllib.parse import urljoin

import orjson
import pytest
from attrs import evolve
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pypi_simple import ProjectPage as OraclePage

from cluster.errors import UpstreamError
from cluster.model import DistributionFile, ProjectPage, ProjectStatus
from cluster.names import normalize
from cluster.simple.negotiate import Format
from cluster.simple.pages import (
    ListEntry,
    file_path,
    render_list_head,
    render_list_items,
    render_list_tail,
    render_project,
)
from cluster.upstream.facts import HASH_DIGITS, MAX_FILES, MAX_LINKS, read_time
from cluster.upstream.parse import ParsedProject, iter_names_html, iter_names_json, parse_project

FOO = normalize("foo")
URL = "https://index.example/simple/foo/"
DIGEST = "0123456789abcdef" * 4
JSON = "application/vnd.pypi.simple.v1+json"


def parse_json(document: object, **more: Any) -> ParsedProject:
    return parse_project(orjson.dumps(document), more.pop("content_type", JSON), URL, FOO)


def parse_file(**claims: object) -> DistributionFile:
    """The file that these claims describe, beside what every file needs."""
    entry = {"filename": "foo-1.0.zip", "url": "foo-1.0.zip", "hashes": {}} | claims
    page = parse_json({"meta": {"api-version": "1.4"}, "files": [entry]})
    assert page.skipped == ()
    return page.files[0]


def parse_html(text: str, url: str = URL) -> ParsedProject:
    return parse_project(text.encode(), "text/html; charset=utf-8", url, FOO)


# --- whole pages -------------------------------------------------------------------------


def test_json_page() -> None:
    """Every fact of a page at API 1.4 arrives; a version without files is bare."""
    page = parse_json(
        {
            "meta": {"api-version": "1.4", "_last-serial": 77},
            "name": "foo",
            "alternate-locations": ["ignored"],
            "project-status": {"status": "deprecated", "reason": "old"},
            "versions": ["1.0", "1.0+cpu", "0.1-beta", "2.0"],
            "files": [
                {
                    "filename": "foo-1.0+cpu-py3-none-any.whl",
                    "url": "https://files.example/x/foo-1.0%2Bcpu-py3-none-any.whl?k=v#x",
                    "hashes": {"SHA256": DIGEST.upper(), "md5": "a" * 32, "crc": "1"},
                    "size": 12,
                    "requires-python": ">=3.8",
                    "upload-time": "2026-01-02T03:04:05.6Z",
                    "yanked": "bad",
                    "core-metadata": {"sha256": DIGEST},
                    "provenance": "https://index.example/p",
                    "_ours": 1,
                },
                {"filename": "foo-1.0.zip", "url": "../../f/foo-1.0.zip", "hashes": {}},
            ],
        }
    )
    assert page == ParsedProject(
        files=(
            DistributionFile(
                filename="foo-1.0+cpu-py3-none-any.whl",
                version="1.0+cpu",
                hashes={"md5": "a" * 32, "sha256": DIGEST},
                size=12,
                url="https://files.example/x/foo-1.0%2Bcpu-py3-none-any.whl?k=v",
                requires_python=">=3.8",
                upload_time="2026-01-02T03:04:05.600000Z",
                yanked="bad",
                core_metadata=DIGEST,
                provenance="https://index.example/p",
            ),
            DistributionFile("foo-1.0.zip", "1.0", url="https://index.example/f/foo-1.0.zip"),
        ),
        bare_versions=("0.1b0", "2.0"),
        status=ProjectStatus("deprecated", "old"),
        upstream_serial=77,
        skipped=(),
    )


def test_html_page() -> None:
    """Attributes, metas, base and serial comment of an HTML page arrive; other links do not."""
    page = parse_html(
        f"""<!DOCTYPE html><html><head><base href="https://cdn.example/pool/">
        <META NAME="pypi:repository-version" CONTENT="1.4">
        <meta name="pypi:project-status" content="archived">
        <title><a href="foo-0.zip">not a link</a></title></head><body>
        <a href="/">Home</a> <a href="https://foo.example">foo</a> <!-- <a href="foo-3.zip"> -->
        <A HREF='foo-1.0%2Bcpu-py3-none-any.whl#sha256={DIGEST.upper()}&amp;egg=foo'
           data-requires-python="&gt;=3.8" data-yanked data-core-metadata="sha256={DIGEST}"
           data-upload-time="2026-01-02T05:04:05+02:00" data-size="12"
           data-provenance="https://index.example/p">any text</A>
        <a href=../foo-1.1.tar.gz data-dist-info-metadata="true" data-yanked="&quot;x&quot;">x</a>
        </body></html><!--SERIAL 77-->"""
    )
    assert page == ParsedProject(
        files=(
            DistributionFile(
                filename="foo-1.0+cpu-py3-none-any.whl",
                version="1.0+cpu",
                hashes={"sha256": DIGEST},
                size=12,
                url="https://cdn.example/pool/foo-1.0%2Bcpu-py3-none-any.whl",
                requires_python=">=3.8",
                upload_time="2026-01-02T03:04:05Z",
                yanked="",
                core_metadata=DIGEST,
                provenance="https://index.example/p",
            ),
            DistributionFile(
                "foo-1.1.tar.gz", "1.1", url="https://cdn.example/foo-1.1.tar.gz", yanked='"x"'
            ),
        ),
        bare_versions=(),
        status=ProjectStatus("archived"),
        upstream_serial=77,
        skipped=(),
    )


FLAT = "".join(
    f'<a href="cpu/{name}">{name}</a><br>\n'
    for name in (
        "Foo-1.0%2Bcpu-cp311-cp311-linux_x86_64.whl",
        "foobar-1.0-py3-none-any.whl",
        "foo-bar-2.0.tar.gz",
        "foo-2.0.tar.gz",
        "foo-1.0.win32-py2.7.exe",
        "bar-1.0.zip",
    )
)


def test_flat_page_is_filtered_by_name() -> None:
    """Of a page with many projects' files only those named after the project count."""
    page = parse_html(FLAT, "https://download.example/whl/stable.html")
    assert [(f.filename, f.version) for f in page.files] == [
        ("Foo-1.0+cpu-cp311-cp311-linux_x86_64.whl", "1.0+cpu"),
        ("foo-2.0.tar.gz", "2.0"),
        ("foo-1.0.win32-py2.7.exe", "1.0"),
    ]


@pytest.mark.parametrize("url", [URL, URL + "index.html", "https://index.example/simple/F%4fO"])
def test_page_of_the_project_is_not_filtered(url: str) -> None:
    """On a project's own page every file is its file, however it is named (standards W3)."""
    assert len(parse_html(FLAT, url).files) == 6


# --- facts -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("claim", "expected"),
    [
        (True, ""), ("why", "why"), ("a\r\nb\x00", "a  b "), ("x" * 9999, "x" * 4096),
        (False, None), (None, None), ("", None),
    ],
)  # fmt: skip
def test_yanked(claim: object, expected: str | None) -> None:
    """A truth value or a reason, which is made one bounded line of text."""
    assert parse_file(yanked=claim).yanked == expected


@pytest.mark.parametrize(
    ("claims", "expected"),
    [
        ({"core-metadata": {"sha256": DIGEST.upper()}}, DIGEST),
        ({"dist-info-metadata": {"sha256": DIGEST}}, DIGEST),
        ({"data-dist-info-metadata": {"sha256": DIGEST}}, DIGEST),
        ({"core-metadata": False, "dist-info-metadata": {"sha256": DIGEST}}, None),
        ({"core-metadata": True}, None),
        ({"core-metadata": {"md5": "a" * 32}}, None),
        ({"core-metadata": {"sha256": "zz"}}, None),
        ({"core-metadata": f"sha256={DIGEST}"}, None),
    ],
)
def test_core_metadata(claims: dict[str, object], expected: str | None) -> None:
    """Only metadata that can be checked by sha256 is known; the newest key decides (PEP 714)."""
    assert parse_file(**claims).core_metadata == expected


@pytest.mark.parametrize(
    ("claim", "expected"),
    [
        ("2026-01-02T03:04:05Z", "2026-01-02T03:04:05Z"),
        ("2026-01-02T03:04:05.123456789Z", "2026-01-02T03:04:05.123456Z"),
        ("2026-01-01 23:04:05-04:30", "2026-01-02T03:34:05Z"),
        ("2026-01-02T03:04:05", None),
        ("2026-02-30T03:04:05Z", None),
        ("2026-01-02T24:00:00Z", None),
        ("0001-01-01T00:00:00+10:00", None),
        ("20260102T030405Z", None),
        ("yesterday", None),
        (1767323045, None),
    ],
)
def test_upload_time(claim: object, expected: str | None) -> None:
    """Times are UTC in one spelling, or unknown."""
    assert read_time(claim) == expected


@pytest.mark.parametrize("claim", [-1, True, 1.5, "12", 2**60, 2**70, None, [1]])
def test_wrong_sizes_are_unknown_sizes(claim: object) -> None:
    """A size that is no plain byte count is dropped and the file kept."""
    number = (
        str(claim).encode() if isinstance(claim, int) and claim > 2**63 else orjson.dumps(claim)
    )
    body = b'{"files":[{"filename":"foo-1.zip","url":"x","hashes":{},"size":%b}]}' % number
    page = parse_project(body, JSON, URL, FOO)
    assert [f.size for f in page.files] == [None]


def test_credentials_of_the_upstream_stay_out() -> None:
    """A relative link on a page with credentials in its URL does not carry them into the log."""
    body = b'<a href="foo-1.zip">foo-1.zip</a>'
    page = parse_project(body, "text/html", "https://me:secret@index.example:8443/foo/", FOO)
    assert [f.url for f in page.files] == ["https://index.example:8443/foo/foo-1.zip"]


def test_urls_are_ascii_and_encoded_once() -> None:
    """Spaces and letters beyond ASCII are encoded; what is encoded already stays as it is."""
    page = parse_html('<a href="a b/ü/%41/foo-1%2B2.zip?x=ä">x</a>')
    assert [f.url for f in page.files] == [URL + "a%20b/%C3%BC/%41/foo-1%2B2.zip?x=%C3%A4"]


@pytest.mark.parametrize(
    ("meta", "top", "expected"),
    [
        ({}, {"status": "quarantined", "reason": "bad"}, ProjectStatus("quarantined", "bad")),
        ({"project-status": {"status": "archived"}}, None, ProjectStatus("archived")),
        ({}, {"status": "sleepy"}, ProjectStatus()),
        ({}, "archived", ProjectStatus()),
        ({}, {"status": ["archived"], "reason": 3}, ProjectStatus()),
    ],
)
def test_project_status(meta: dict[str, Any], top: object, expected: ProjectStatus) -> None:
    """The status is read at the top or inside meta (standards J5); nonsense means active."""
    assert parse_json({"meta": meta, "files": [], "project-status": top}).status == expected


def test_hash_lengths_are_those_of_hashlib() -> None:
    """The written-out table holds every fixed-size hash that hashlib guarantees."""
    fixed = {name for name in hashlib.algorithms_guaranteed if not name.startswith("shake")}
    assert {name: hashlib.new(name, b"").digest_size * 2 for name in fixed} == HASH_DIGITS


# --- malformed entries and pages ---------------------------------------------------------


@pytest.mark.parametrize(
    "entry",
    [
        None, 7, "foo-2.zip", [],
        {}, {"filename": "foo-2.zip"}, {"filename": 3, "url": "x"},
        {"filename": "../foo-2.zip", "url": "x"}, {"filename": "..", "url": "x"},
        {"filename": "a\\foo-2.zip", "url": "x"}, {"filename": "foo-2\r\nX: y.zip", "url": "x"},
        {"filename": "foo-2\0.zip", "url": "x"}, {"filename": "f" * 300 + ".zip", "url": "x"},
        {"filename": "foo-2.zip.metadata", "url": "x"}, {"filename": "foo", "url": "x"},
        {"filename": "foo-2.zip", "url": "javascript:alert(1)//foo-2.zip"},
        {"filename": "foo-2.zip", "url": "file:///etc/foo-2.zip"},
        {"filename": "foo-2.zip", "url": "ftp://a.example/foo-2.zip"},
        {"filename": "foo-2.zip", "url": ""},
        {"filename": "foo-2.zip", "url": "https://[bad/foo-2.zip"},
        {"filename": "foo-2.zip", "url": "https://a.example:99999/foo-2.zip"},
        {"filename": "foo-2.zip", "url": "https://ä.example/foo-2.zip"},
        {"filename": "foo-2.zip", "url": "https://a.example/" + "x" * 9000},
        {"filename": "foo-2.zip", "url": "x", "hashes": []},
        {"filename": "foo-2.zip", "url": "x", "hashes": {"sha256": "abc"}},
        {"filename": "foo-2.zip", "url": "x", "hashes": {"sha256": "g" * 64}},
        {"filename": "foo-2.zip", "url": "x", "hashes": {"sha256": None}},
        {"filename": "foo-2.zip", "url": "x", "yanked": 1},
        {"filename": "foo-2.zip", "url": "x", "requires-python": ">" * 2000},
        {"filename": "foo-2.zip", "url": "x", "requires-python": {}},
        {"filename": "foo-1.zip", "url": "https://evil.example/foo-1.zip"},
    ],
)  # fmt: skip
def test_malformed_json_entry_is_skipped_and_named(entry: object) -> None:
    """A bad entry costs itself only, is reported in printable text, and never wins over a good."""
    good = {"filename": "foo-1.zip", "url": "foo-1.zip"}
    page = parse_json({"files": [good, entry]})
    assert [f.url for f in page.files] == [URL + "foo-1.zip"]
    assert len(page.skipped) == 1
    assert page.skipped[0].isascii()
    assert page.skipped[0].isprintable()


@pytest.mark.parametrize(
    "href",
    [
        "javascript:foo-2.zip", "mailto:x/foo-2.zip", "https://[bad/foo-2.zip",
        "..%2ffoo-2.zip", "%2e%2e%5cfoo-2.zip", "foo%00-2.zip", "foo%0d%0a-2.zip",
        "foo-2.zip#sha256=beef", "foo%ff-2.zip",
    ],
)  # fmt: skip
def test_malformed_link_is_skipped_and_named(href: str) -> None:
    """Links that hide a path, a scheme or a control character in a file name are not listed."""
    page = parse_html(f'<a href="foo-1.zip">x</a><a href="{href}">foo-2.zip</a>')
    assert [f.filename for f in page.files] == ["foo-1.zip"]
    assert len(page.skipped) == 1


@pytest.mark.parametrize(
    "href", ["../../x", "%2e%2e", "..", "/", "#", "?a=foo-2.zip", "foo-2.zip.asc"]
)
def test_links_that_are_no_files(href: str) -> None:
    """Links to anything but an archive are neither files nor faults."""
    page = parse_html(f'<a href="{href}">foo-2.zip</a>')
    assert (page.files, page.skipped) == ((), ())


def test_relative_path_stays_a_link() -> None:
    """``../../`` in a link is resolved, and the name is what remains."""
    page = parse_html('<a href="../../../../x/foo-2.zip">x</a>')
    assert [f.url for f in page.files] == ["https://index.example/x/foo-2.zip"]


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (b"", JSON), (b"null", JSON), (b"[]", JSON), (b"{}", JSON), (b'{"files":{}}', JSON),
        (b"[" * 100_000, JSON), (b'{"files":' * 5000, JSON), (b"\xff\xfe", JSON),
        (b'{"files":[NaN]}', JSON), (b'{"files":[],"meta":{"api-version":"2.0"}}', JSON),
        (b'{"files":[],"meta":{"api-version":{}}}', JSON), (b"<html></html>", JSON),
        (b'{"files":[]}', "application/vnd.pypi.simple.v2+json"), (b"x", "text/plain"), (b"x", ""),
        (b"\xff", "text/html"), (b"x", "text/html; charset=utf-7"),
        (b'<meta name="pypi:repository-version" content="2.0">', "text/html"),
        (b'<form action="/login"><input name="password"></form>', "text/html"),
    ],
)  # fmt: skip
def test_not_a_project_page(body: bytes, content_type: str) -> None:
    """What is no project page of API 1 is an upstream error with a message of one short line."""
    with pytest.raises(UpstreamError) as error:
        parse_project(body, content_type, URL, FOO)
    assert 10 < len(str(error.value)) < 200
    assert str(error.value).isprintable()


def test_duplicate_keys_and_wrong_types_beside_the_files() -> None:
    """Junk in optional members changes nothing about the files."""
    body = (
        b'{"files":[],"files":[{"filename":"foo-1.zip","url":"x"}],"meta":3,"name":[],'
        b'"versions":[1,null,"","1","2\\u0000","9e9"],"project-status":[1]}'
    )
    page = parse_project(body, "application/json", URL, FOO)
    assert [f.filename for f in page.files] == ["foo-1.zip"]
    assert page.bare_versions == ("9e9",)
    assert page.upstream_serial is None


def test_too_many_files() -> None:
    """A page beyond the bound is refused before its files are built."""
    with pytest.raises(UpstreamError, match="30,000"):
        parse_project(b'{"files":[%b0]}' % (b"0," * MAX_FILES), JSON, URL, FOO)
    with pytest.raises(UpstreamError, match="100,000"):
        parse_project(b"<a href=x>" * (MAX_LINKS + 1), "text/html", URL, FOO)


def test_latin_1_page() -> None:
    """A page in the character set it declares is read in it."""
    page = parse_project(
        b'<a href="foo-1.zip" data-yanked="\xfc">x</a>', "text/html;charset=ISO-8859-1", URL, FOO
    )
    assert [f.yanked for f in page.files] == ["ü"]


@pytest.mark.parametrize(
    "piece",
    [b"<", b"<a ", b"<a href='", b"<!--", b"<!", b"</", b"<a x=", b"<script>", b"<a x ", b"&#9"],
)
def test_broken_markup_takes_linear_time(piece: bytes) -> None:
    """No piece of broken HTML, repeated through a megabyte, keeps a thread busy."""
    body = b"<a href='&#" + b"9" * 9999 + b";'>" + piece * (1_000_000 // len(piece))
    start = perf_counter()
    assert parse_project(body, "text/html", URL, FOO).files == ()
    assert list(iter_names_html([body])) == []
    assert perf_counter() - start < 10  # quadratic: minutes


@given(st.text(alphabet="<>a/!-='\" \n&#;hrefoo-1.zip"), st.binary(max_size=200))
@settings(max_examples=300, deadline=None)
def test_no_input_crashes(markup: str, noise: bytes) -> None:
    """Whatever the bytes are, the answer is a page or an upstream error."""
    parse_html(f'<a href="foo-1.zip">{markup}')
    for content_type in (JSON, "text/html"):
        try:
            parse_project(noise, content_type, URL, FOO)
        except UpstreamError:
            continue


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)
KEYS = ["filename", "url", "hashes", "size", "upload-time", "yanked", "requires-python",
        "core-metadata", "provenance"]  # fmt: skip


@given(
    st.lists(st.dictionaries(st.sampled_from(KEYS), json_values) | json_values, max_size=4),
    st.dictionaries(st.sampled_from(["meta", "versions", "project-status"]), json_values),
)
@settings(max_examples=300, deadline=None)
def test_no_json_shape_crashes(files: list[Any], rest: dict[str, Any]) -> None:
    """Any type in any place of a JSON page gives a page in which each entry is accounted for."""
    entries = [{"filename": "foo-1.zip", "url": "x"}, *files]
    try:
        page = parse_json(rest | {"files": entries})
    except UpstreamError as e:
        assert "version" in str(e)  # noqa: PT017
    else:
        assert len(page.files) + len(page.skipped) == len(entries)


# --- our own pages, read back ------------------------------------------------------------

digests = st.binary(min_size=32, max_size=32).map(bytes.hex)
texts = st.text(
    st.characters(exclude_categories=("Cc", "Cs")) | st.sampled_from("\"'<>&#;= "), max_size=30
)
stems = st.text(st.characters(categories=("L", "N", "P", "S"), exclude_characters="/\\"))
versions = st.sampled_from(["1.0", "1.0+cpu", "2!1.0.post1", "1.0-weird", "2004b", "0.1.dev3"])


@st.composite
def files(draw: st.DrawFn) -> DistributionFile:
    """Any file whose facts an upstream can state in HTML and JSON alike."""
    odd = draw(stems.map(lambda s: s[:40]))
    kind = draw(st.sampled_from(["foo-{v}.tar.gz", "foo-{v}-py3-none-any.whl", "{odd}-{v}.zip"]))
    whole = draw(st.booleans())
    date = draw(st.datetimes().map(lambda d: d.isoformat() + "Z"))
    return DistributionFile(
        filename=kind.format(v=draw(versions), odd=odd),
        hashes={"sha256": draw(digests)} if whole else {},
        size=draw(st.none() | st.integers(0, 2**40)),
        url="https://files.example/x",
        requires_python=draw(st.none() | texts.map(str.strip).filter(bool)),
        upload_time=draw(st.none() | st.just(date)),
        yanked=draw(st.none() | texts),
        core_metadata=draw(st.none() | digests),
        provenance=draw(st.none() | st.just("https://files.example/p?a=1&b=%22")),
    )


statuses = st.builds(
    ProjectStatus,
    st.sampled_from(["active", "archived", "deprecated"]),
    st.none() | texts.filter(bool),
)
pages = st.builds(
    ProjectPage,
    name=st.just(FOO),
    files=st.lists(files(), max_size=5, unique_by=lambda f: f.filename).map(tuple),
    status=statuses,
    serial=st.integers(0, 2**53),
)


def facts(file: DistributionFile, url: str) -> DistributionFile:
    """The file as a reader of our page knows it: our URL, the version its name states."""
    return evolve(file, version=None, url=urljoin(url, f"../../{file_path(file)}"))


@given(pages, st.sampled_from(Format))
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_round_trip(page: ProjectPage, format: Format) -> None:
    """What one pymirror renders another reads back: the same facts, in HTML and in JSON."""
    url = "https://node.example/root/pypi/+simple/foo/"
    parsed = parse_project(render_project(page, format), format.content_type, url, FOO)
    assert parsed.skipped == ()
    assert [evolve(f, version=None) for f in parsed.files] == [facts(f, url) for f in page.files]
    assert parsed.status == page.status
    assert parsed.upstream_serial == page.serial
    assert parsed.bare_versions == ()


@given(pages)
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_an_independent_reader_agrees(page: ProjectPage) -> None:
    """The parser of pypi_simple finds the same names, URLs, hashes and yanks on our pages."""
    url = "https://node.example/root/pypi/+simple/foo/"
    html = render_project(page, Format.HTML_TEXT)
    json = orjson.loads(render_project(page, Format.JSON_V1))
    ours = parse_project(html, "text/html", url, FOO).files
    for oracle in (
        OraclePage.from_html("foo", html, url, from_encoding="utf-8"),
        OraclePage.from_json_data(json, url),
    ):
        found = [
            (p.filename, p.url.partition("#")[0], p.digests, p.is_yanked, p.requires_python)
            for p in oracle.packages
        ]
        assert found == [
            (f.filename, f.url, f.hashes, f.yanked is not None, f.requires_python) for f in ours
        ]


# --- project lists -----------------------------------------------------------------------


def chunked(body: bytes, size: int) -> Iterator[bytes]:
    return (body[at : at + size] for at in range(0, len(body), size))


NAMES = ["0.0.1", "Foo_Bar", "zope.interface", "x"]


@pytest.mark.parametrize("size", [1, 7, 64, 10_000])
def test_names_of_an_html_list(size: int) -> None:
    """Names come as spelled wherever the chunks are cut; what is no name is left out."""
    body = (
        b'<html><a href="../">Parent Directory</a> <abbr>no</abbr><a name=x><b>bold</b></a>'
        b'<a href="0-0-1/">0.0.1</a><br>\n<A\nHREF="foo-bar/" >\n Foo&#95;Bar\n</A ><a href=y>'
        b'-bad-</a><a href="zope-interface/">zope.interface/</a><a href="u">\xc3\xbc</a>'
        + b'<a href="' + b"x" * 9000 + b'<a href="x/">x</a><a href="cut">cut'
    )  # fmt: skip
    assert list(iter_names_html(chunked(body, size))) == NAMES


def test_names_of_a_json_list() -> None:
    """Names come as spelled; other members and names that are none are left out."""
    projects = [{"name": n, "_last-serial": 1} for n in NAMES]
    junk: list[Any] = [{}, {"name": 5}, {"name": "a b"}, {"name": {"name": "no"}}, [{"name": "no"}]]
    junk += ["no", {"x": {"name": "no"}}, ["name", "no"]]
    other = {"name": "no", "x": [{"name": "no"}], "meta": {"api-version": "1.1", "name": "no"}}
    body = orjson.dumps({"projects": [*junk, *projects], **other})
    assert list(iter_names_json(io.BytesIO(body))) == NAMES


@pytest.mark.parametrize(
    "body",
    [
        b"", b"[]", b"{}", b'{"projects":{}}', b'{"projects":[{"name":"a"}', b"<html>", b"\xff",
        b'{"meta":{"api-version":"2.0"},"projects":[]}', b'{"projects":[{"name":"\xff"}]}',
        b'{"x":' + b"9" * 6000 + b"}", b"[" * 1_000_000, b'{"x":{"projects":[]}}',
    ],
)  # fmt: skip
def test_not_a_json_list(body: bytes) -> None:
    """What is no project list, or only the beginning of one, is an upstream error."""
    with pytest.raises(UpstreamError):
        list(iter_names_json(io.BytesIO(body)))


@pytest.mark.parametrize("format", Format)
def test_list_round_trip(format: Format) -> None:
    """What we render as a list is read back, 20,000 names in little time."""
    entries = [ListEntry(f"Generated.project_{n}", n) for n in range(20_000)]
    body = (
        render_list_head(format, 1)
        + render_list_items(format, entries, True)
        + render_list_tail(format)
    )
    names = (
        iter_names_json(io.BytesIO(body))
        if format.is_json
        else iter_names_html(chunked(body, 16384))
    )
    assert list(names) == [entry.name for entry in entries]
