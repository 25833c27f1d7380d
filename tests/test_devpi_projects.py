"""Projects over HTTP: releases and links through bases; removing, yanking, status, refresh."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cluster.web.devpi.links import latest
from tests.project_site import ProjectSite, described, link, project_site

BASE = "http://mirror.example"
WHEEL = "demo-1.0-py3-none-any.whl"
SDIST = "demo-1.0.tar.gz"
NEWER = "demo-1.10.tar.gz"
PIP = "pip/24.0 {}"


@pytest.fixture
def site(tmp_path: Path) -> Iterator[ProjectSite]:
    with project_site(tmp_path) as made:
        yield made


@pytest.fixture
def demo(site: ProjectSite) -> ProjectSite:
    """bob/dev has the project demo: version 1.0 with two files, 1.10 with one."""
    site.add("bob/dev", "demo", SDIST, WHEEL, summary="a demo")
    site.add("bob/dev", "demo", NEWER)
    return site


def mirror(site: ProjectSite, **options: object) -> None:
    """Make the mirror bob/up."""
    given = {"type": "mirror", "mirror_url": "http://up.example/simple/", **options}
    assert site.call("PUT", "/bob/up", given, site.bob).status == 200


def index(site: ProjectSite, name: str, **options: object) -> None:
    """Make a hosted index of bob."""
    assert site.call("PUT", f"/bob/{name}", options, site.bob).status == 200


def names(links: list[dict[str, Any]]) -> list[str]:
    """The file names of links."""
    return [one["href"].rpartition("/")[2] for one in links]


def test_project(demo: ProjectSite) -> None:
    """A project is its releases, each with metadata and absolute links that have a log."""
    answer = demo.call("GET", "/bob/dev/demo/")
    assert (answer.status, answer.headers["content-type"]) == (200, "application/json")
    assert answer.json["type"] == "projectconfig"
    assert list(answer.result) == ["1.10", "1.0"]
    release = answer.result["1.0"]
    assert (release["name"], release["version"], release["summary"]) == ("demo", "1.0", "a demo")
    assert names(release["+links"]) == [WHEEL, SDIST]
    digest = described(WHEEL, "demo").sha256
    assert release["+links"][0] == {
        "rel": "releasefile",
        "href": f"{BASE}/bob/dev/{link(WHEEL)}",
        "hash_spec": f"sha256={digest}",
        "hashes": {"sha256": digest},
        "log": [
            {"what": "upload", "who": "bob", "when": [2023, 11, 14, 22, 13, 20], "dst": "bob/dev"}
        ],
    }


def test_version(demo: ProjectSite) -> None:
    """One release is what the project says of it, in any spelling of its version."""
    release = demo.versions("bob/dev", "demo")["1.0"]
    for spelling in ("1.0", "1.0/", "v1.0"):
        answer = demo.call("GET", f"/bob/dev/demo/{spelling}")
        assert (answer.json["type"], answer.result) == ("versiondata", release)


def test_latest_and_stable(demo: ProjectSite) -> None:
    """Two words stand for versions: the newest, and the newest that is no pre-release."""
    demo.add("bob/dev", "demo", "demo-2.0rc1.tar.gz")
    assert demo.call("GET", "/bob/dev/demo/latest").result["version"] == "2.0rc1"
    assert demo.call("GET", "/bob/dev/demo/stable").result["version"] == "1.10"
    assert latest(["1.0a1", "1.0a2"], stable=True) == "1.0a2"
    assert latest([], stable=False) is None


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("/bob/dev/nothing", "no project 'nothing'"),
        ("/bob/dev/-", "no project '-'"),
        ("/bob/dev/demo/9", "The version 9 of project demo does not exist."),
        ("/bob/none/demo", "The stage bob/none could not be found."),
        ("/bob/dev/nothing/+status", "no project 'nothing'"),
    ],
)
def test_not_found(demo: ProjectSite, path: str, message: str) -> None:
    """What is not there is said so in JSON."""
    answer = demo.call("GET", path)
    assert (answer.status, answer.message) == (404, message)


def test_plus_is_no_project(demo: ProjectSite) -> None:
    """A segment that begins with a plus is never the name of a project or a version."""
    for path in ("/bob/dev/+demo", "/bob/dev/demo/+demo"):
        assert demo.call("GET", path).status == 404
        assert demo.call("DELETE", path, auth=demo.bob).status in (404, 405)
    assert "1.0" in demo.versions("bob/dev", "demo")


def test_redirects(demo: ProjectSite) -> None:
    """Other spellings go to the normalized name, query included; installers to the simple page."""
    answer = demo.call("GET", "/bob/dev/Demo?ignore_bases=")
    assert (answer.status, answer.headers["location"]) == (302, "/bob/dev/demo?ignore_bases=")
    answer = demo.call("GET", "/bob/dev/DEMO/1.0")
    assert (answer.status, answer.headers["location"]) == (302, "/bob/dev/demo/1.0")
    answer = demo.call("GET", "/bob/dev/demo", accept="*/*", agent=PIP)
    assert (answer.status, answer.headers["location"]) == (302, "/bob/dev/+simple/demo/")


def test_bases(demo: ProjectSite) -> None:
    """The first index with a version supplies it, the others shadow; mirrors stay behind a name."""
    mirror(demo)
    demo.upstream.files = {"demo": ["demo-9.tar.gz"], "other": ["other-1.tar.gz"]}
    index(demo, "top", bases=["bob/up", "bob/dev"])
    demo.add("bob/top", "demo", "demo-1.0.zip")
    found = demo.versions("bob/top", "demo")
    assert list(found) == ["1.10", "1.0"]
    assert names(found["1.0"]["+links"]) == ["demo-1.0.zip"]
    (shadow,) = found["1.0"]["+shadowing"]
    assert shadow["+links"][0]["href"] == f"{BASE}/bob/dev/{link(WHEEL)}"
    assert list(demo.call("GET", "/bob/top/demo?ignore_bases").result) == ["1.0"]
    assert "+shadowing" not in demo.call("GET", "/bob/top/demo?ignore_bases").result["1.0"]
    (mirrored,) = demo.versions("bob/top", "other")["1"]["+links"]
    assert mirrored["href"] == f"{BASE}/bob/up/{link('other-1.tar.gz')}"
    assert demo.call("GET", "/bob/top/other?ignore_bases").status == 404


def test_upstream_trouble(site: ProjectSite) -> None:
    """A mirror that knows nothing and cannot ask is 502, never "no such project"."""
    mirror(site)
    index(site, "top", bases=["bob/up"])
    site.upstream.error = "it is down"
    for path in ("/bob/up/demo", "/bob/top/demo"):
        assert site.call("GET", path).status == 502
    assert site.call("GET", "/bob/top/demo?ignore_bases").status == 404


def test_read_rights(demo: ProjectSite) -> None:
    """A restricted index is 401 for nobody and 404 for others, and left out below its heirs."""
    demo.call("PATCH", "/bob/dev", {"acl_pkg_read": "bob"}, demo.bob)
    index(demo, "top", bases=["bob/dev"])
    demo.add("bob/top", "demo", "demo-1.0.zip")
    eve = demo.user("eve")
    file = f"/bob/dev/{link(WHEEL)}"
    for path in ("/bob/dev/demo", "/bob/dev/demo/1.0", "/bob/dev/demo/+status", file):
        assert demo.call("GET", path, auth=None).status == 401
        assert demo.call("GET", path, auth=eve).status == 404
        assert demo.call("GET", path, auth=demo.bob).status == 200
    assert "+shadowing" in demo.call("GET", "/bob/top/demo", auth=demo.bob).result["1.0"]
    public = demo.call("GET", "/bob/top/demo", auth=None)
    assert list(public.result) == ["1.0"]
    assert "bob/dev" not in public.body.decode()


def test_file_as_json(demo: ProjectSite) -> None:
    """A file asked for as JSON is what is known of it."""
    answer = demo.call("GET", f"/bob/dev/{link(WHEEL)}")
    assert (answer.json["type"], answer.result["project"]) == ("releasefilemeta", "demo")
    assert answer.result["version"] == "1.0"
    assert answer.result["hash_spec"] == f"sha256={described(WHEEL, 'demo').sha256}"
    assert answer.result["last_modified"] == "Tue, 14 Nov 2023 22:13:20 GMT"
    assert demo.call("GET", "/bob/dev/+f/000/0000000000000/demo-1.0.tar.gz").status == 404


def test_docs_and_their_removal(demo: ProjectSite) -> None:
    """A documentation zip is a link of its release, and goes alone by its URL."""
    filename = demo.add_docs("bob/dev", "demo", "1.0")
    links = demo.versions("bob/dev", "demo")["1.0"]["+links"]
    (docs,) = [one for one in links if one["rel"] == "doczip"]
    assert names([docs]) == [filename]
    path = docs["href"].removeprefix(BASE)
    assert demo.call("DELETE", path, auth=demo.bob).status == 200
    assert names(demo.versions("bob/dev", "demo")["1.0"]["+links"]) == [WHEEL, SDIST]
    assert demo.call("GET", path).status == 410


def test_remove_project(demo: ProjectSite) -> None:
    """A project goes with all its files, whose links are gone for ever."""
    answer = demo.call("DELETE", "/bob/dev/Demo/", auth=demo.bob)
    assert (answer.status, answer.message) == (200, "project demo deleted from stage bob/dev")
    assert demo.call("GET", "/bob/dev/demo").status == 404
    assert demo.call("GET", f"/bob/dev/{link(WHEEL)}", accept="*/*").status == 410
    again = demo.call("DELETE", "/bob/dev/demo", auth=demo.bob)
    assert (again.status, again.message) == (404, "no project 'demo'")


def test_remove_version(demo: ProjectSite) -> None:
    """A version goes with its files; the last one takes the project along."""
    answer = demo.call("DELETE", "/bob/dev/demo/1.0", auth=demo.bob)
    assert (answer.status, answer.message) == (200, "project 'demo' version '1.0' deleted")
    assert list(demo.versions("bob/dev", "demo")) == ["1.10"]
    missing = demo.call("DELETE", "/bob/dev/demo/1.0", auth=demo.bob)
    assert missing.status == 404
    assert missing.message == "version '1.0' of project 'demo' not found on bob/dev"
    assert demo.call("DELETE", "/bob/dev/demo/1.10/", auth=demo.bob).status == 200
    assert demo.call("GET", "/bob/dev/demo").status == 404


def test_remove_file(demo: ProjectSite) -> None:
    """A file goes; asked again it is gone; the last one takes its version along."""
    path = f"bob/dev/{link(WHEEL)}"
    answer = demo.call("DELETE", f"/{path}", auth=demo.bob)
    assert (answer.status, answer.message) == (200, f"package '{path}' deleted")
    again = demo.call("DELETE", f"/{path}", auth=demo.bob)
    assert (again.status, again.message) == (410, f"file '{path}' existed, deleted in later serial")
    never = "bob/dev/+f/000/0000000000000/x.whl"
    missing = demo.call("DELETE", f"/{never}", auth=demo.bob)
    assert (missing.status, missing.message) == (404, f"package '{never}' doesn't exist")
    assert demo.call("DELETE", f"/bob/dev/{link(SDIST)}", auth=demo.bob).status == 200
    assert list(demo.versions("bob/dev", "demo")) == ["1.10"]


def test_remove_only_what_is_its_own(demo: ProjectSite) -> None:
    """What an index has from its bases cannot be removed through it."""
    index(demo, "top", bases=["bob/dev"])
    for path in ("demo", "demo/1.0", link(WHEEL)):
        assert demo.call("DELETE", f"/bob/top/{path}", auth=demo.bob).status == 404
    assert list(demo.versions("bob/top", "demo")) == ["1.10", "1.0"]


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("demo", "project 'demo' is on non-volatile index bob/dev"),
        ("demo/1.0", "cannot delete version on non-volatile index"),
        (link(WHEEL), "cannot delete version on non-volatile index"),
    ],
)
def test_remove_from_non_volatile(demo: ProjectSite, path: str, message: str) -> None:
    """Only ?force removes from an index that is not volatile."""
    demo.call("PATCH", "/bob/dev", {"volatile": False}, demo.bob)
    before = len(demo.log())
    refused = demo.call("DELETE", f"/bob/dev/{path}", auth=demo.bob)
    assert refused.status == 403
    assert refused.message.startswith(message)
    assert len(demo.log()) == before
    assert demo.call("DELETE", f"/bob/dev/{path}?force=", auth=demo.bob).status == 200


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("DELETE", "demo", None),
        ("DELETE", "demo/1.0", None),
        ("DELETE", link(WHEEL), None),
        ("POST", "demo/1.0/+yank", {}),
        ("DELETE", f"{link(WHEEL)}/+yank", None),
        ("PUT", "demo/+status", {"status": "archived"}),
    ],
)
def test_rights(demo: ProjectSite, method: str, path: str, body: object) -> None:
    """Nobody is asked for a password, others are refused, root may do all of it."""
    before, eve = len(demo.log()), demo.user("eve")
    assert demo.call(method, f"/bob/dev/{path}", body, None).status == 401
    assert demo.call(method, f"/bob/dev/{path}", body, ("bob", "wrong")).status == 401
    assert demo.call(method, f"/bob/dev/{path}", body, eve).status == 403
    assert len(demo.log()) == before + 1  # eve's own
    assert demo.call(method, f"/bob/dev/{path}", body).status == 200


def test_remove_from_mirror(site: ProjectSite) -> None:
    """What is removed from a mirror is fetched again, as its upstream has it now."""
    mirror(site)
    site.upstream.files = {"demo": [SDIST, WHEEL, NEWER]}
    assert list(site.versions("bob/up", "demo")) == ["1.10", "1.0"]
    for path in ("demo", "demo/1.0", link(SDIST)):
        before = len(site.upstream.asked)
        assert site.call("DELETE", f"/bob/up/{path}", auth=site.bob).status == 200
        assert len(site.upstream.asked) == before + 1
        assert names(site.versions("bob/up", "demo")["1.0"]["+links"]) == [WHEEL, SDIST]
    site.upstream.files = {"demo": [NEWER]}
    assert site.call("DELETE", "/bob/up/demo", auth=site.bob).status == 200
    assert list(site.versions("bob/up", "demo")) == ["1.10"]
    site.call("PATCH", "/bob/up", {"volatile": False}, site.bob)
    assert site.call("DELETE", "/bob/up/demo", auth=site.bob).status == 403


def yanked(site: ProjectSite, version: str) -> dict[str, str | None]:
    """The reasons of a version's files by name."""
    links = site.versions("bob/dev", "demo")[version]["+links"]
    return {name: one.get("yanked") for name, one in zip(names(links), links, strict=True)}


def test_yank_version(demo: ProjectSite) -> None:
    """All files of a version are yanked with a reason, once, and unyanked."""
    answer = demo.call("POST", "/bob/dev/demo/1.0/+yank", {"reason": "broken"}, demo.bob)
    assert (answer.result, answer.message) == ({"yanked": "broken"}, "demo 1.0 is yanked")
    assert yanked(demo, "1.0") == {WHEEL: "broken", SDIST: "broken"}
    assert yanked(demo, "1.10") == {NEWER: None}
    before = len(demo.log())
    demo.call("POST", "/bob/dev/demo/1.0/+yank", {"reason": "broken"}, demo.bob)
    assert len(demo.log()) == before
    page = demo.call("GET", "/bob/dev/+simple/demo/", accept="text/html").body.decode()
    assert page.count('data-yanked="broken"') == 2
    assert demo.call("DELETE", "/bob/dev/demo/1.0/+yank", auth=demo.bob).result["yanked"] is None
    assert yanked(demo, "1.0") == {WHEEL: None, SDIST: None}


def test_yank_file(demo: ProjectSite) -> None:
    """One file is yanked, also without a reason and on an index that is not volatile."""
    demo.call("PATCH", "/bob/dev", {"volatile": False}, demo.bob)
    path = f"/bob/dev/{link(WHEEL)}/+yank"
    assert demo.call("POST", path, None, demo.bob).result == {"yanked": ""}
    assert yanked(demo, "1.0") == {WHEEL: "", SDIST: None}
    assert demo.call("DELETE", path, auth=demo.bob).status == 200
    assert yanked(demo, "1.0") == {WHEEL: None, SDIST: None}


def test_yank_what_cannot_be(demo: ProjectSite) -> None:
    """Bad reasons, unknown versions and files, documentation, mirrors."""
    docs = demo.add_docs("bob/dev", "demo", "1.0")
    for path, body, status in (
        ("demo/1.0", {"reason": 7}, 400),
        ("demo/1.0", {"reason": "x" * 2_001}, 400),
        ("demo/1.0", ["reason"], 400),
        ("demo/9", {}, 404),
        ("nothing/1.0", {}, 404),
        (link("demo-9.tar.gz"), {}, 404),
        (link(docs), {}, 400),
    ):
        assert demo.call("POST", f"/bob/dev/{path}/+yank", body, demo.bob).status == status
    mirror(demo)
    demo.upstream.files = {"demo": [SDIST]}
    demo.versions("bob/up", "demo")
    answer = demo.call("POST", "/bob/up/demo/1.0/+yank", {}, demo.bob)
    assert (answer.status, "upstream" in answer.message) == (400, True)


def test_status(demo: ProjectSite) -> None:
    """A project's status is set, shown, and on its simple page; once is enough."""
    status = {"status": "archived", "reason": "see other"}
    assert demo.call("PUT", "/bob/dev/demo/+status", status, demo.bob).result == status
    assert demo.call("GET", "/bob/dev/demo/+status").result == status
    before = len(demo.log())
    demo.call("PUT", "/bob/dev/demo/+status", status, demo.bob)
    assert len(demo.log()) == before
    page = demo.call("GET", "/bob/dev/+simple/demo/", accept="text/html").body.decode()
    assert 'content="archived"' in page
    demo.call("PUT", "/bob/dev/demo/+status", {"status": "active"}, demo.bob)
    assert demo.call("GET", "/bob/dev/demo/+status").result == {"status": "active", "reason": None}


@pytest.mark.parametrize(
    "body",
    [{}, {"status": "gone"}, {"status": ["active"]}, {"status": "active", "reason": 1},
     {"status": "active", "because": "x"}, [], b"{"],
)  # fmt: skip
def test_bad_status(demo: ProjectSite, body: object) -> None:
    """Only the four words of PEP 792, with a text for a reason."""
    before = len(demo.log())
    assert demo.call("PUT", "/bob/dev/demo/+status", body, demo.bob).status == 400
    assert len(demo.log()) == before


def test_quarantined(demo: ProjectSite) -> None:
    """A quarantined project offers nothing, but its keeper still sees what is there."""
    demo.call("PUT", "/bob/dev/demo/+status", {"status": "quarantined"}, demo.bob)
    assert demo.versions("bob/dev", "demo") == {}
    assert list(demo.call("GET", "/bob/dev/demo?ignore_bases").result) == ["1.10", "1.0"]


def test_refresh(site: ProjectSite) -> None:
    """Anybody who may read asks upstream before the time, through bases, for one page or other."""
    mirror(site)
    index(site, "top", bases=["bob/up"])
    site.upstream.files = {"demo": [SDIST]}
    assert list(site.versions("bob/top", "demo")) == ["1.0"]
    for number, (path, location) in enumerate(
        {"/bob/top/+simple/Demo/refresh": "/bob/top/+simple/demo/",
         "/bob/up/demo/refresh": "/bob/up/demo"}.items()
    ):  # fmt: skip
        newer = f"demo-2.{number}.tar.gz"
        site.upstream.files["demo"].append(newer)
        assert f"2.{number}" not in site.versions("bob/top", "demo")
        answer = site.call("POST", path, auth=None)
        assert (answer.status, answer.headers["location"]) == (302, location)
        assert f"2.{number}" in site.versions("bob/top", "demo")
    assert site.upstream.asked == ["demo"] * 3
    site.upstream.error = "it is down"
    assert site.call("POST", "/bob/up/demo/refresh", auth=None).status == 302
    assert list(site.versions("bob/up", "demo")) == ["2.1", "2.0", "1.0"]


def test_refresh_what_may_not_be_read(site: ProjectSite) -> None:
    """No upstream is asked for who may not read."""
    mirror(site, acl_pkg_read=["bob"])
    assert site.call("POST", "/bob/up/+simple/demo/refresh", auth=None).status == 401
    assert site.upstream.asked == []
