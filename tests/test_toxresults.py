"""Results of tests over HTTP: kept byte for byte beside the file that was tested."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cluster.auth.tokens import TokenLimits, mint
from cluster.log.changes import Change, Kind
from primary.devpi import toxresults
from tests.fakes import NOW
from tests.project_site import ProjectSite, link, project_site

BASE = "http://mirror.example"
SDIST = "demo-1.0.tar.gz"
NAME = f"{SDIST}.toxresult-20231114221320"
# Spaces, an escape and a trailing newline: nothing that another writer of JSON would write.
RESULT = b'{"host":  "a",\r\n "b": "\\u00e9"}\n'


@pytest.fixture
def site(tmp_path: Path) -> Iterator[ProjectSite]:
    with project_site(tmp_path) as made:
        made.add("bob/dev", "demo", SDIST)
        yield made


def results(site: ProjectSite, index: str = "bob/dev") -> list[dict[str, Any]]:
    """The links of test results of demo 1.0."""
    links = site.versions(index, "demo")["1.0"]["+links"]
    return [one for one in links if one["rel"] == "toxresult"]


def left_over(site: ProjectSite) -> list[Path]:
    """Temporary files in the store."""
    return list((site.store.root / "tmp").iterdir())


def test_result(site: ProjectSite) -> None:
    """A result is stored as it came, answered with its path, and linked with its file and log."""
    answer = site.call("POST", f"/bob/dev/{link(SDIST)}", RESULT, site.bob)
    assert (answer.status, answer.json["type"]) == (200, "toxresultpath")
    path, _, digest = answer.result.partition("#sha256=")
    assert path == f"bob/dev/{link(SDIST).removesuffix(SDIST)}{NAME}-0"
    (found,) = results(site)
    assert found == {
        "rel": "toxresult",
        "href": f"{BASE}/{path}",
        "for_href": f"{BASE}/bob/dev/{link(SDIST)}",
        "hash_spec": f"sha256={digest}",
        "hashes": {"sha256": digest},
        "log": [
            {"what": "upload", "who": "bob", "when": [2023, 11, 14, 22, 13, 20], "dst": "bob/dev"}
        ],
    }
    assert site.call("GET", f"/{path}", accept="*/*").body == RESULT
    assert left_over(site) == []


def test_many_results(site: ProjectSite) -> None:
    """Results of one moment have different names, the oldest first, also when they are equal."""
    for _ in range(3):
        assert site.call("POST", f"/bob/dev/{link(SDIST)}", RESULT, None).status == 200
    hrefs = [one["href"].rpartition("/")[2] for one in results(site)]
    assert hrefs == [f"{NAME}-{number}" for number in range(3)]
    assert [one["log"][0]["who"] for one in results(site)] == [None] * 3
    assert site.log()[-1].actor == ":anonymous:"


def test_removed_one_by_one(site: ProjectSite) -> None:
    """A result can be removed by its URL; its number is not given to another that is there."""
    for _ in range(2):
        site.call("POST", f"/bob/dev/{link(SDIST)}", RESULT, None)
    first = results(site)[0]["href"].removeprefix(BASE)
    assert site.call("DELETE", first, auth=site.bob).status == 200
    assert site.call("GET", first).status == 410
    assert site.call("POST", f"/bob/dev/{link(SDIST)}", RESULT, None).status == 200
    assert [one["href"][-1] for one in results(site)] == ["1", "2"]


def test_removed_with_the_file(site: ProjectSite) -> None:
    """Without its file a result is gone."""
    site.add("bob/dev", "demo", "demo-1.0.zip")
    site.call("POST", f"/bob/dev/{link(SDIST)}", RESULT, None)
    (found,) = results(site)
    assert site.call("DELETE", f"/bob/dev/{link(SDIST)}", auth=site.bob).status == 200
    assert results(site) == []
    assert site.call("GET", found["href"].removeprefix(BASE)).status == 410


@pytest.mark.parametrize("body", [b"", b"{", b"\xff\xfe", b"{}{}", b"[" * 100_000])
def test_no_json(site: ProjectSite, body: bytes) -> None:
    """What is not JSON is refused, and nothing is left of it."""
    before = len(site.log())
    answer = site.call("POST", f"/bob/dev/{link(SDIST)}", body)
    assert (answer.status, answer.message) == (400, "Bad request: could not decode json")
    assert len(site.log()) == before
    assert left_over(site) == []


def test_not_found(site: ProjectSite) -> None:
    """There must be a release file at that path, on that very index."""
    assert site.call("PUT", "/bob/top", {"bases": "bob/dev"}, site.bob).status == 200
    docs = site.add_docs("bob/dev", "demo", "1.0")
    for path in (f"bob/dev/{link('demo-2.tar.gz')}", f"bob/top/{link(SDIST)}",
                 f"bob/dev/{link(docs)}"):  # fmt: skip
        answer = site.call("POST", f"/{path}", RESULT)
        assert (answer.status, answer.message) == (404, f"no release file found at {path}")
    assert site.call("POST", f"/bob/none/{link(SDIST)}", RESULT).status == 404
    assert site.call("POST", f"/bob/d%20v/{link(SDIST)}", RESULT).status == 400


def test_rights(site: ProjectSite) -> None:
    """Who is not in acl_toxresult_upload gets a 403 that says so; wrong credentials are a 401."""
    path = f"/bob/dev/{link(SDIST)}"
    site.call("PATCH", "/bob/dev", {"acl_toxresult_upload": "bob"}, site.bob)
    for auth, who in ((None, "anonymous"), (("root", ""), "root")):
        answer = site.call("POST", path, RESULT, auth)
        assert answer.status == 403
        assert answer.message.startswith(f"No permission to upload tox results. {who} is not in")
    missing = site.call("POST", f"/bob/dev/{link('demo-2.tar.gz')}", RESULT, None)
    assert missing.status == 403
    assert site.call("POST", path, RESULT, ("bob", "wrong")).status == 401
    assert site.call("POST", path, RESULT, site.bob).status == 200


def test_restricted_index(site: ProjectSite) -> None:
    """Who may not read an index cannot learn from it, whatever its list for results says."""
    site.call("PATCH", "/bob/dev", {"acl_pkg_read": "bob"}, site.bob)
    eve = site.user("eve")
    assert site.call("POST", f"/bob/dev/{link(SDIST)}", RESULT, None).status == 401
    assert site.call("POST", f"/bob/dev/{link(SDIST)}", RESULT, eve).status == 404


@pytest.mark.parametrize(
    ("actions", "projects", "status"),
    [({"upload"}, (), 200), ({"upload"}, ("demo",), 200), ({"read"}, (), 403),
     ({"upload"}, ("other",), 403)],
)  # fmt: skip
def test_tokens(
    site: ProjectSite, actions: set[str], projects: tuple[str, ...], status: int
) -> None:
    """An API token brings results within its limits."""
    limits = TokenLimits(frozenset(actions), ("bob/dev",), projects)
    text, token = mint("bob", limits, "", 60, NOW)
    site.write(Change(Kind.TOKEN_ADDED, token.to_payload()))
    answer = site.call("POST", f"/bob/dev/{link(SDIST)}", RESULT, ("__token__", text))
    assert answer.status == status


def test_bound(site: ProjectSite, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is too large is refused by its length, and a body without one when it gets there."""
    monkeypatch.setattr(toxresults, "MAX_RESULT_BYTES", 1_000)
    path, before = f"/bob/dev/{link(SDIST)}", len(site.log())
    assert site.call("POST", path, b'"' + b"x" * 998 + b'"').status == 200
    assert site.call("POST", path, b'"' + b"x" * 999 + b'"').status == 413
    assert site.chunked(path, [b'"', b"x" * 600, b"x" * 600, b'"']).status == 413
    assert site.chunked(path, [b'"', b"x" * 600, b'"']).status == 200
    assert len(site.log()) == before + 2
    assert left_over(site) == []


def test_result_of_a_mirrored_file(site: ProjectSite) -> None:
    """Mirrors keep results too; they are shown as long as upstream has the file."""
    given = {"type": "mirror", "mirror_url": "http://up.example/simple/"}
    assert site.call("PUT", "/bob/up", given, site.bob).status == 200
    site.upstream.files = {"demo": [SDIST, "demo-1.0.zip"]}
    site.versions("bob/up", "demo")
    assert site.call("POST", f"/bob/up/{link(SDIST)}", RESULT, None).status == 200
    assert len(results(site, "bob/up")) == 1
    site.upstream.files = {"demo": ["demo-1.0.zip"]}
    site.call("POST", "/bob/up/demo/refresh", auth=None)
    assert results(site, "bob/up") == []
