"""The test upstream is one that pip and uv accept, and its faults are what they are called."""

from __future__ import annotations

import http.client
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.builders import sdist, wheel
from tests.installers import pip_install, uv_install
from tests.processes import Cluster, Upstream
from tests.processes import http as fetch

pytestmark = pytest.mark.functional

JSON = {"Accept": "application/vnd.pypi.simple.v1+json"}
APP = wheel("app", "1.0+cu116", requires=["Lib.Two>=1"])
LIB = wheel("lib-two", "1.5", requires_python=">=3.8")


@pytest.fixture
def upstream(nodes: Cluster) -> Upstream:
    """An upstream with a small tree in all flavours."""
    upstream = nodes.upstream(big=3)
    for flavour in ("json", "html", "nohash"):
        upstream.add(flavour, APP, LIB, sdist("lib-two", "1.4"))
    return upstream


@pytest.mark.parametrize("prefix", ["json/simple", "html/simple", "nohash"])
@pytest.mark.parametrize("install", [pip_install, uv_install])
def test_installs(
    upstream: Upstream, tmp_path: Path, prefix: str, install: Callable[..., None]
) -> None:
    """Both installers take a tree from each flavour."""
    install(f"{upstream.url}/{prefix}/", "app==1.0+cu116", target=tmp_path / "target")
    assert "VERSION = '1.5'" in (tmp_path / "target" / "lib_two.py").read_text()


def test_json_page_says_everything(upstream: Upstream) -> None:
    """The JSON page has hashes, sizes, dates, yanks and metadata that is there."""
    upstream.yank("json", LIB, "broken")
    url = f"{upstream.url}/json/simple/lib-two/"
    page = fetch("GET", url, headers=JSON)
    old, new = page.json()["files"]
    assert [old["filename"], new["filename"]] == ["lib_two-1.4.tar.gz", LIB.filename]
    assert new["yanked"] == "broken"
    assert new["hashes"] == {"sha256": LIB.sha256}
    assert new["core-metadata"] == {"sha256": LIB.metadata_sha256}
    assert fetch("GET", new["url"] + ".metadata").body == LIB.metadata
    again = fetch("GET", url, headers={**JSON, "If-None-Match": page.headers["etag"]})
    assert (again.status, again.body) == (304, b"")
    assert upstream.counts()["/json/simple/lib-two/"] == 2
    assert [r["status"] for r in upstream.requests()][-1] == 304


def test_lists(upstream: Upstream) -> None:
    """Each flavour lists its projects; the big one those that it was told to make up."""
    listed = fetch("GET", f"{upstream.url}/json/simple/", headers=JSON).json()["projects"]
    assert [p["name"] for p in listed] == ["app", "lib-two"]
    assert b'<a href="app/">app</a>' in fetch("GET", f"{upstream.url}/html/simple/").body
    assert len(fetch("GET", f"{upstream.url}/big/simple/").json()["projects"]) == 3
    assert fetch("GET", f"{upstream.url}/nohash/absent/").status == 403


def test_faults(upstream: Upstream) -> None:
    """Each fault goes wrong in its own way, as often as it was told."""
    path = f"/json/files/app/{APP.filename}"
    url = upstream.url + path.replace("+", "%2B")
    upstream.fault(path, status=500, times=1)
    assert fetch("GET", url).status == 500
    assert fetch("GET", url).body == APP.data
    upstream.fault(path, flip=True)
    wrong = fetch("GET", url).body
    assert wrong != APP.data
    assert wrong[1:] == APP.data[1:]
    upstream.fault(path, cut=10)
    with pytest.raises(http.client.IncompleteRead):
        fetch("GET", url)
    upstream.fault(path, short=10)
    assert fetch("GET", url).body == APP.data[:10]
    for stuck in ({"hold": True}, {"stall": 10}):
        upstream.fault(path, **stuck)
        with pytest.raises(TimeoutError):
            fetch("GET", url, timeout=0.3)
    upstream.clear()
    assert fetch("GET", url).body == APP.data


def test_ranges_and_giant(upstream: Upstream) -> None:
    """Ranges of the generated giant are pieces of its whole."""
    url = fetch("GET", f"{upstream.url}/giant/simple/giant/").json()["files"][0]["url"]
    whole = fetch("GET", url).body
    part = fetch("GET", url, headers={"Range": "bytes=100000-299999"})
    assert (part.status, part.body) == (206, whole[100000:300000])
    assert fetch("GET", url, headers={"Range": "bytes=-5"}).body == whole[-5:]
