"""The bytes of project pages and of the project list (standards S, H, J, Y2)."""

from __future__ import annotations

from hashlib import sha256
from time import perf_counter
from typing import Any

import orjson
import pytest
from attrs import evolve
from pypi_simple import IndexPage

from cluster.model import DistributionFile, ProjectPage, ProjectStatus
from cluster.names import normalize
from cluster.simple.negotiate import Format
from cluster.simple.pages import (
    ListEntry,
    digest_prefix,
    file_path,
    render_list_head,
    render_list_items,
    render_list_tail,
    render_project,
)

DIGEST = "0123456789abcdef" * 4
META = "f" * 64
WHEEL = DistributionFile(
    filename="foo-1.0+cpu-py3-none-any.whl",
    version="1.0+cpu",
    hashes={"md5": "a" * 32, "sha256": DIGEST},
    size=1234,
    url="https://files.example/foo.whl",
    requires_python=">=3.8,<4",
    upload_time="2026-01-02T03:04:05.678900Z",
    yanked='said "no" <&>',
    core_metadata=META,
    provenance="https://files.example/p?a=1&b=2",
)
SDIST = DistributionFile(filename="foo-0.9.tar.gz", version="0.9", hashes={"sha256": META}, size=0)
PAGE = ProjectPage(normalize("foo"), (WHEEL, SDIST), ("0.10", "legacy"), serial=42)

GOLDEN_HTML = f"""\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="pypi:repository-version" content="1.4">
<meta name="pypi:project-status" content="deprecated">
<meta name="pypi:project-status-reason" content="use &lt;bar&gt;">
<title>Links for foo</title>
</head>
<body>
<h1>Links for foo</h1>
<a href="../../+f/012/3456789abcdef/foo-1.0%2Bcpu-py3-none-any.whl#sha256={DIGEST}" \
data-requires-python="&gt;=3.8,&lt;4" \
data-core-metadata="sha256={META}" data-dist-info-metadata="sha256={META}" \
data-yanked="said &quot;no&quot; &lt;&amp;&gt;" \
data-provenance="https://files.example/p?a=1&amp;b=2" \
data-upload-time="2026-01-02T03:04:05.678900Z" data-size="1234">\
foo-1.0+cpu-py3-none-any.whl</a><br>
<a href="../../+f/fff/fffffffffffff/foo-0.9.tar.gz#sha256={META}" data-size="0">\
foo-0.9.tar.gz</a><br>
</body>
</html>
<!--SERIAL 42-->
"""


def as_json(page: ProjectPage) -> dict[str, Any]:
    document: dict[str, Any] = orjson.loads(render_project(page, Format.JSON_V1))
    return document


def test_html_golden() -> None:
    """The HTML page is, byte for byte, what H1-H8 ask for; both HTML types have the same bytes."""
    page = evolve(PAGE, status=ProjectStatus("deprecated", "use <bar>"))
    assert render_project(page, Format.HTML_TEXT).decode() == GOLDEN_HTML
    assert render_project(page, Format.HTML_V1).decode() == GOLDEN_HTML


def test_json_golden() -> None:
    """The JSON page carries every fact under the names of PEP 691, 700, 714, 740 and 792."""
    assert as_json(evolve(PAGE, status=ProjectStatus("archived", "done"))) == {
        "meta": {"api-version": "1.4", "_last-serial": 42},
        "name": "foo",
        "project-status": {"status": "archived", "reason": "done"},
        "versions": ["legacy", "0.9", "0.10", "1.0+cpu"],
        "files": [
            {
                "filename": "foo-1.0+cpu-py3-none-any.whl",
                "url": "../../+f/012/3456789abcdef/foo-1.0%2Bcpu-py3-none-any.whl",
                "hashes": {"md5": "a" * 32, "sha256": DIGEST},
                "requires-python": ">=3.8,<4",
                "core-metadata": {"sha256": META},
                "yanked": 'said "no" <&>',
                "provenance": "https://files.example/p?a=1&b=2",
                "size": 1234,
                "upload-time": "2026-01-02T03:04:05.678900Z",
            },
            {
                "filename": "foo-0.9.tar.gz",
                "url": "../../+f/fff/fffffffffffff/foo-0.9.tar.gz",
                "hashes": {"sha256": META},
                "requires-python": None,
                "core-metadata": False,
                "yanked": False,
                "provenance": None,
                "size": 0,
            },
        ],
    }


def test_json_does_not_depend_on_how_values_were_built() -> None:
    """Hashes known in another order, as on another node, give the same bytes."""
    turned = evolve(WHEEL, hashes=dict(sorted(WHEEL.hashes.items(), reverse=True)))
    assert render_project(evolve(PAGE, files=(turned, SDIST)), Format.JSON_V1) == render_project(
        PAGE, Format.JSON_V1
    )


def test_page_without_a_size_announces_1_0() -> None:
    """A size that nobody knows is left out, and the page then does not claim 1.1 (J7)."""
    page = as_json(evolve(PAGE, files=(evolve(WHEEL, size=None), SDIST)))
    assert page["meta"]["api-version"] == "1.0"
    assert "size" not in page["files"][0]
    assert page["files"][1]["size"] == 0


@pytest.mark.parametrize("format", Format)
def test_quarantined_project_offers_nothing(format: Format) -> None:
    """PEP 792: of a quarantined project neither files nor versions are shown (Y2)."""
    body = render_project(evolve(PAGE, status=ProjectStatus("quarantined")), format)
    assert b"foo-" not in body
    assert b"quarantined" in body
    if format.is_json:
        assert orjson.loads(body)["versions"] == orjson.loads(body)["files"] == []


def test_yanked_without_reason() -> None:
    """An empty reason is an empty attribute in HTML and true in JSON (PEP 592, 691)."""
    page = evolve(PAGE, files=(evolve(SDIST, yanked=""),))
    assert b'data-yanked=""' in render_project(page, Format.HTML_TEXT)
    assert as_json(page)["files"][0]["yanked"] is True


def test_insecure_provenance_stays_out_of_html() -> None:
    """H6 wants https in the attribute."""
    page = evolve(PAGE, files=(evolve(SDIST, provenance="http://files.example/p"),))
    assert b"data-provenance" not in render_project(page, Format.HTML_TEXT)


def test_versions_are_listed_once() -> None:
    """A version with two files, also listed bare, appears once (J4)."""
    page = evolve(
        PAGE, files=(WHEEL, evolve(WHEEL, filename="foo.zip")), bare_versions=("1.0+cpu",)
    )
    assert as_json(page)["versions"] == ["1.0+cpu"]


@pytest.mark.parametrize(
    ("hashes", "fragment"),
    [
        ({"md5": "a" * 32, "sha512": "b" * 128}, f"#sha512={'b' * 128}"),
        ({"md5": "a" * 32}, f"#md5={'a' * 32}"),
        ({}, ""),
    ],
)
def test_file_without_sha256(hashes: dict[str, str], fragment: str) -> None:
    """Such a file is named by its URL below +e, with the best hash there is in the fragment."""
    file = DistributionFile("foo-1 ü#?.zip", url="https://files.example/ü.zip", hashes=hashes)
    digest = sha256("https://files.example/ü.zip".encode()).hexdigest()
    path = f"+e/{digest[:3]}/{digest[3:16]}/foo-1%20%C3%BC%23%3F.zip"
    assert file_path(file) == path
    assert digest_prefix(file) == digest[:16]
    html = render_project(evolve(PAGE, files=(file,)), Format.HTML_TEXT).decode()
    assert f'<a href="../../{path}{fragment}">foo-1 ü#?.zip</a>' in html


def render_list(format: Format, entries: list[ListEntry]) -> bytes:
    return (
        render_list_head(format, 7)
        + render_list_items(format, entries[:2], True)
        + render_list_items(format, [], False)
        + render_list_items(format, entries[2:], not entries[:2])
        + render_list_tail(format)
    )


ENTRIES = [ListEntry("Foo.Bar", 5), ListEntry("zope_interface", 6), ListEntry("x", 7)]


def test_json_list() -> None:
    """Batches join to the root page with the serials that bandersnatch works from (J6)."""
    assert orjson.loads(render_list(Format.JSON_V1, ENTRIES)) == {
        "meta": {"api-version": "1.4", "_last-serial": 7},
        "projects": [
            {"name": "Foo.Bar", "_last-serial": 5},
            {"name": "zope_interface", "_last-serial": 6},
            {"name": "x", "_last-serial": 7},
        ],
    }
    assert orjson.loads(render_list(Format.JSON_V1, []))["projects"] == []


def test_html_list() -> None:
    """Links lead to the normalized name below the list; an independent reader sees all names."""
    body = render_list(Format.HTML_TEXT, ENTRIES)
    assert b'<a href="foo-bar/">Foo.Bar</a><br>\n<a href="zope-interface/">' in body
    assert IndexPage.from_html(body).projects == ["Foo.Bar", "zope_interface", "x"]


@pytest.mark.parametrize("format", Format)
def test_items_one_by_one_are_the_batch(format: Format) -> None:
    """Rendering single items gives the bytes of a batch."""
    single = [render_list_items(format, [e], e is ENTRIES[0]) for e in ENTRIES]
    assert b"".join(single) == render_list_items(format, ENTRIES, True)


@pytest.mark.parametrize("format", [Format.JSON_V1, Format.HTML_TEXT])
def test_large_page_is_fast(format: Format) -> None:
    """2,000 files of 500 releases are rendered in well under the time anyone notices."""
    files = tuple(
        evolve(WHEEL, filename=f"foo-{n // 4}.0-{n % 4}-py3-none-any.whl", version=f"{n // 4}.0")
        for n in range(2000)
    )
    best = min(_seconds(evolve(PAGE, files=files), format) for _ in range(5))
    assert best < 0.15  # 0.03 on an idle machine: the bound only catches a wrong algorithm


def _seconds(page: ProjectPage, format: Format) -> float:
    start = perf_counter()
    render_project(page, format)
    return perf_counter() - start
