"""What real clients ask for, and what they get (standards N1-N6)."""

from __future__ import annotations

import pytest

from cluster.errors import NotAcceptable
from cluster.simple.negotiate import Format, accepts_gzip, choose

PIP = (
    "application/vnd.pypi.simple.v1+json, application/vnd.pypi.simple.v1+html; q=0.1, "
    "text/html; q=0.01"
)
UV = (
    "application/vnd.pyx.simple.v1+msgpack, application/vnd.pyx.simple.v1+json;q=0.9, "
    "application/vnd.pypi.simple.v1+json, application/vnd.pypi.simple.v1+html;q=0.2, "
    "text/html;q=0.01"
)
POETRY = "application/vnd.pypi.simple.v1+json, application/json;q=0.1, text/html;q=0.01"
FIREFOX = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,*/*;q=0.8"
SIMPLE = "application/vnd.pypi.simple."


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        pytest.param(PIP, Format.JSON_V1, id="pip"),
        pytest.param(UV, Format.JSON_V1, id="uv"),
        pytest.param(POETRY, Format.JSON_V1, id="poetry"),
        pytest.param("text/html", Format.HTML_TEXT, id="pip before JSON"),
        pytest.param(FIREFOX, Format.HTML_TEXT, id="browser"),
        pytest.param("*/*", Format.HTML_TEXT, id="curl"),
        pytest.param(None, Format.HTML_TEXT, id="no header"),
        pytest.param("", Format.HTML_TEXT, id="empty header"),
        pytest.param("application/json", Format.HTML_TEXT, id="old tool"),
        pytest.param(f"{SIMPLE}latest+json", Format.JSON_V1, id="latest"),
        pytest.param(f"{SIMPLE}latest+html", Format.HTML_V1, id="latest html"),
        pytest.param(f"{SIMPLE}v2+json, text/html;q=0.1", Format.HTML_TEXT, id="v2 or html"),
        pytest.param(f"{SIMPLE}v1+html;q=0.5, {SIMPLE}v1+json;q=0.4", Format.HTML_V1, id="q wins"),
        pytest.param(f"text/html, {SIMPLE}v1+json", Format.JSON_V1, id="tie of named types"),
        pytest.param(f"{SIMPLE}v1+html, */*", Format.HTML_V1, id="named beats wildcard"),
        pytest.param("text/html;q=0.2, */*;q=0.9", Format.HTML_V1, id="exact overrides wildcard"),
        pytest.param("text/*, application/*;q=0.9", Format.HTML_TEXT, id="subtype wildcards"),
        pytest.param("text/html;q=0, */*", Format.HTML_V1, id="refused html"),
        pytest.param(f"{SIMPLE}v1+json;q=0, */*", Format.HTML_TEXT, id="refused json"),
        pytest.param("text/html;q=nan, */*;q=inf, ;;,q=1", Format.HTML_TEXT, id="garbage"),
        pytest.param("Application/VND.PyPI.simple.V1+JSON;Q=1.0", Format.JSON_V1, id="letter case"),
        pytest.param("x/y," * 5000 + f"{SIMPLE}v1+json", Format.JSON_V1, id="too long to cache"),
    ],
)
def test_accept(accept: str | None, expected: Format) -> None:
    """Each kind of client gets the format it prefers, and who does not say gets text/html."""
    assert choose(accept, None) is expected


@pytest.mark.parametrize(
    "accept",
    [f"{SIMPLE}v2+json", f"{SIMPLE}v2+json, {SIMPLE}v2+html;q=0.5", "text/html;q=0", "*/*;q=0"],
)
def test_not_acceptable(accept: str) -> None:
    """Only who insists on a version we lack, or refuses what we have, is refused."""
    with pytest.raises(NotAcceptable):
        choose(accept, None)


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        (f"{SIMPLE}v1+html", Format.HTML_V1),
        (f"{SIMPLE}latest html", Format.HTML_V1),
        ("text/html", Format.HTML_TEXT),
        ("application/nonsense", Format.JSON_V1),
        ("", Format.JSON_V1),
        (None, Format.JSON_V1),
    ],
)
def test_query_format_beats_accept(query: str | None, expected: Format) -> None:
    """``?format=`` wins over Accept when it names a format we have, and else is ignored."""
    assert choose(PIP, query) is expected


def test_content_types() -> None:
    """The headers are ones that pip takes, whose check is by prefix (standards S4)."""
    assert [f.content_type for f in Format] == [
        "text/html; charset=utf-8",
        "application/vnd.pypi.simple.v1+html",
        "application/vnd.pypi.simple.v1+json",
    ]
    assert [f.is_json for f in Format] == [False, False, True]


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("gzip, deflate", True),
        ("gzip, deflate, zstd", True),
        ("GZip;q=0.1", True),
        ("x-gzip", True),
        ("*", True),
        ("br;q=1.0, *;q=0.1", True),
        ("gzip;q=0, *", False),
        ("gzip;q=0.5, identity", False),
        ("identity", False),
        ("br", False),
        ("", False),
        (None, False),
        ("br," * 2000 + "gzip", True),
    ],
)
def test_gzip(header: str | None, expected: bool) -> None:
    """Gzip is sent to who accepts it and does not prefer the plain bytes."""
    assert accepts_gzip(header) is expected
