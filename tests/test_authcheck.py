"""How the URI that a front asks about is read: in one way, or not at all."""

from __future__ import annotations

from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.errors import Forbidden
from cluster.names import IndexName, NormalizedName
from cluster.web.authcheck import Asked, original_path


@pytest.mark.parametrize(
    ("uri", "outside", "path"),
    [
        ("/root/dev/+simple/", None, "/root/dev/+simple/"),
        ("/root/dev/%2Bsimple/?x=//y/../z", None, "/root/dev/+simple/"),
        ("https://front.example/root/dev", None, "/root/dev"),
        ("https://front.example/p/root/dev", "https://front.example/p/", "/root/dev"),
        ("/p/root/dev", "https://front.example/p", "/root/dev"),
        ("/root/dev", "https://front.example/p", "/root/dev"),
        ("/public/root/dev", "https://front.example/p", "/public/root/dev"),
        ("/root/dev?x=http://other.example/", None, "/root/dev"),
        ("/j%C3%B6/dev", None, "/j\u00f6/dev"),
    ],
)
def test_paths(uri: str, outside: str | None, path: str) -> None:
    """Paths come out decoded, without host, query, and the path of the outside URL."""
    assert original_path(uri, outside) == path


@pytest.mark.parametrize(
    "uri",
    ["", "root/dev", "*", "?x", "https://", "/root//dev", "/root/dev/../private/", "/./root",
     "/root/dev/%2e%2e/private", "/root%2Fdev", "/root/dev%5cx", "/x%00y", "/x%0ay", "/%ff",
     "/root\\dev", "http://[/root/dev", "//root/dev/+simple/x/#://", "/root/dev#/+api"],
)  # fmt: skip
def test_ambiguous_paths(uri: str) -> None:
    """What a front and a node could read in two ways is refused."""
    with pytest.raises(Forbidden):
        original_path(uri, None)


@given(st.lists(st.text(max_size=4), max_size=5), st.sampled_from(["", "+%/.", "/"]))
def test_any_path(segments: list[str], safe: str) -> None:
    """Whatever a client sends, there is a plain path or a refusal."""
    uri = "/" + "/".join(quote(s, safe=safe, errors="replace") for s in segments)
    try:
        path = original_path(uri, None)
    except Forbidden:
        return
    assert path.startswith("/")
    assert "//" not in path
    assert "\\" not in path
    assert not {".", ".."} & set(path.split("/"))


def test_what_a_path_is_about() -> None:
    """The index is in the path; the project is where the route has it."""
    page = Asked("GET", "/ann/dev/+simple/Demo/", {"user": "ann", "name": "dev", "project": "Demo"})
    assert (page.index(), page.project()) == (IndexName("ann/dev"), NormalizedName("demo"))
    legacy = Asked("GET", "/a/b/pypi/X/json", {"user": "a", "index": "b", "name": "X"})
    assert (legacy.index(), legacy.project()) == (IndexName("a/b"), NormalizedName("x"))
    user = Asked("GET", "/ann/", {"user": "ann"})
    assert (user.index(), user.project(), user.is_open) == (None, None, False)


@pytest.mark.parametrize(
    ("path", "is_open"),
    [("/", True), ("/+api", True), ("/ann/+api", True), ("/ann/dev/+api", True),
     ("/+static-1.0/x.css", True), ("/+login", True), ("/_/oidc/audience", True),
     ("/_/private", False), ("/-x/private", False), ("/ann/dev/+simple/+api", False),
     ("/ann/dev/+f/abc/0123456789abc/+api", False), ("/+tokens", False)],
)  # fmt: skip
def test_open_paths(path: str, is_open: bool) -> None:
    """What is open to all, and names that only look like it."""
    assert Asked("GET", path, {}).is_open == is_open
