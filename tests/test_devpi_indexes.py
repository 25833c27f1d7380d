"""Indexes over HTTP: options, secrets, bases, and who may see and change them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Connection

from cluster.log.changes import Change, Kind
from cluster.model import Index
from cluster.names import IndexName
from cluster.state import queries
from tests.devpi_site import DevpiSite, devpi_site

MIRROR = {"type": "mirror", "mirror_url": "http://ann:top%20secret@up.example/simple/"}


@pytest.fixture
def site(tmp_path: Path) -> Iterator[DevpiSite]:
    with devpi_site(tmp_path) as made:
        yield made


@pytest.fixture
def bob(site: DevpiSite) -> tuple[str, str]:
    """The owner of the index bob/dev."""
    made = site.user("bob")
    assert site.call("PUT", "/bob/dev", {}, made).status == 200
    return made


def secrets_of(site: DevpiSite) -> dict[str, str]:
    """The secrets that the last entry names, without the salt."""
    blob: dict[str, str] = json.loads(site.blobs.get(site.log()[-1].payload["secrets"]))
    assert len(blob.pop("salt")) == 32
    return blob


def test_create_and_show(site: DevpiSite, bob: tuple[str, str]) -> None:
    """What a PUT answers is what a GET shows, but for the projects."""
    made = site.call("PUT", "/bob/prod/", {"bases": "bob/dev,", "volatile": "no"}, bob)
    assert (made.status, made.json["type"]) == (200, "indexconfig")
    assert made.message == "index bob/prod created"
    assert made.result["bases"] == ["bob/dev"]
    assert made.result["acl_upload"] == ["bob"]
    assert made.headers["x-pymirror-serial"] == str(site.log()[-1].serial)
    assert site.call("GET", "/bob/prod").result == {**made.result, "projects": []}
    assert site.call("GET", "/bob/prod?no_projects=").result == made.result
    assert site.call("GET", "/bob").result["indexes"]["prod"] == made.result


@pytest.mark.parametrize(
    ("path", "body", "status", "message"),
    [
        ("/bob/dev", {}, 409, "index 'bob/dev' exists"),
        ("/nobody/dev", {}, 404, "no user 'nobody'"),
        ("/bob/a!b", {}, 400, "indexname 'a!b' contains characters that aren't allowed."),
        ("/bob/x", {"type": "what"}, 400, "unknown index type 'what'"),
        ("/bob/x", {"what": 1}, 400, "indexconfig got unexpected keyword arguments: what"),
        ("/bob/x", {"bases": ["a/b", "c/d"]}, 400,
         "base index 'a/b' does not exist, base index 'c/d' does not exist"),
        ("/bob/x", {"bases": "bob/x"}, 400, "bob/x cannot be its own base"),
        ("/bob/x", b"no", 400, "Bad request: could not decode json"),
        ("/bob/x", ["volatile=True"], 400, "the body must be a JSON object"),
    ],
)  # fmt: skip
def test_create_refused(
    site: DevpiSite, bob: tuple[str, str], path: str, body: object, status: int, message: str
) -> None:
    """What is wrong is said, and nothing is recorded."""
    before = len(site.log())
    answer = site.call("PUT", path, body)
    assert (answer.status, answer.message[: len(message)]) == (status, message)
    assert len(site.log()) == before


def test_what_a_mirror_ignores_is_said(site: DevpiSite) -> None:
    """The guide's `devpi index -c douban type=mirror bases=root/pypi` is good."""
    made = site.call("PUT", "/root/douban", {"type": "mirror", "bases": "root/pypi"})
    assert made.status == 200
    assert made.message == "index root/douban created; bases are ignored: a mirror has none"
    changed = site.call("PATCH", "/root/douban", ["acl_upload=root", "title=T"])
    assert changed.message.endswith("; acl_upload is ignored: a mirror takes no uploads")
    assert changed.result["title"] == "T"


def test_secrets_stay_on_the_nodes(site: DevpiSite) -> None:
    """They are in a blob that the entry names, never in the entry or an answer."""
    made = site.call("PUT", "/root/up", MIRROR)
    assert made.result["mirror_url"] == "http://up.example/simple/"
    assert secrets_of(site) == {"mirror_credentials": "ann:top secret"}
    first = site.log()[-1].payload["secrets"]
    site.call("PATCH", "/root/up", {"title": "T"})
    assert site.log()[-1].payload["secrets"] == first
    site.call("PATCH", "/root/up", {"mirror_url": "http://bea:x@up.example/simple/"})
    assert secrets_of(site) == {"mirror_credentials": "bea:x"}
    site.call("PATCH", "/root/up", {"mirror_url": "http://other.example/simple/"})
    assert "secrets" not in site.log()[-1].payload
    for entry in site.log():
        assert b"top" not in entry.raw
    assert b"top" not in made.body + site.call("GET", "/root/up").body


def test_equal_secrets_have_different_names(site: DevpiSite) -> None:
    """The digest in the log tells nothing: not even that two indexes share a password."""
    site.call("PUT", "/root/one", MIRROR)
    site.call("PUT", "/root/two", MIRROR)
    names = {entry.payload["secrets"] for entry in site.log()[-2:]}
    assert len(names) == 2


def test_change(site: DevpiSite, bob: tuple[str, str]) -> None:
    """Operators, an object, and the whole of what a GET gave, in its envelope."""
    body = ["acl_upload+=ann", "title=T"]
    assert site.call("PATCH", "/bob/dev", body, bob).result["acl_upload"] == ["bob", "ann"]
    assert site.call("PATCH", "/bob/dev/", {"title": "U"}, bob).result["title"] == "U"
    whole = site.call("GET", "/bob/dev").json
    whole["result"]["title"] = "V"
    changed = site.call("PATCH", "/bob/dev", whole, bob)
    assert (changed.status, changed.result["title"]) == (200, "V")
    assert changed.message == "index bob/dev updated"


def test_a_change_of_nothing(site: DevpiSite, bob: tuple[str, str]) -> None:
    """It makes no serial, and is refused for who asks for that."""
    before = len(site.log())
    assert site.call("PATCH", "/bob/dev", ["volatile=True"], bob).status == 200
    answer = site.call("PATCH", "/bob/dev?error_on_noop", ["volatile=True"], bob)
    assert answer.status == 400
    assert answer.message == "The requested modifications resulted in no changes"
    assert len(site.log()) == before
    assert site.call("PATCH", "/bob/dev?error_on_noop", ["volatile=no"], bob).status == 200


@pytest.mark.parametrize(
    "body", [["what=1"], ["acl_upload-=nobody"], ["x"], 3, None, {"type": "x"}]
)
def test_change_refused(site: DevpiSite, bob: tuple[str, str], body: object) -> None:
    """What cannot be is 400."""
    assert site.call("PATCH", "/bob/dev", body, bob).status == 400


def test_bases_lead_nowhere_back(site: DevpiSite, bob: tuple[str, str]) -> None:
    """A circle of bases is refused when it would be closed."""
    site.call("PUT", "/bob/two", {"bases": "bob/dev"}, bob)
    site.call("PUT", "/bob/three", {"bases": "bob/two"}, bob)
    for base in ("bob/two", "bob/three"):
        answer = site.call("PATCH", "/bob/dev", {"bases": [base]}, bob)
        assert answer.status == 400
        assert answer.message == f"base index {base!r} has 'bob/dev' among its own bases"


def test_many_bases_are_one_walk(site: DevpiSite, bob: tuple[str, str]) -> None:
    """Bases that are named again and again, of a long chain, do not hold up all writes."""
    for number in range(12):
        below = {"bases": f"bob/c{number - 1}"} if number else {}
        assert site.call("PUT", f"/bob/c{number}", below, bob).status == 200
    looked: list[str] = []
    index = queries.index

    def counted(connection: Connection, name: IndexName) -> Index | None:
        looked.append(name)
        return index(connection, name)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(queries, "index", counted)
        answer = site.call("PUT", "/bob/top", {"bases": ["bob/c11", "bob/c10"] * 100}, bob)
    assert answer.status == 200
    assert len(looked) < 40


def test_only_new_bases_must_exist(site: DevpiSite, bob: tuple[str, str]) -> None:
    """A base may be deleted; what else is changed later does not fail because of it."""
    site.call("PUT", "/bob/prod", {"bases": "bob/dev"}, bob)
    assert site.call("DELETE", "/bob/dev", auth=bob).status == 201
    assert site.call("PATCH", "/bob/prod", ["title=T"], bob).result["bases"] == ["bob/dev"]
    assert site.call("PATCH", "/bob/prod", ["bases+=bob/gone"], bob).status == 400


def test_hidden_bases_do_not_exist(site: DevpiSite, bob: tuple[str, str]) -> None:
    """Whoever names an index that they may not read learns nothing of it."""
    ann = site.user("ann")
    site.call("PUT", "/bob/private", {"acl_pkg_read": "bob"}, bob)
    for name in ("private", "absent"):
        answer = site.call("PUT", "/ann/dev", {"bases": f"bob/{name}"}, ann)
        assert (answer.status, answer.message) == (400, f"base index 'bob/{name}' does not exist")


@pytest.mark.parametrize(
    ("method", "body"), [("GET", None), ("PATCH", ["title=x"]), ("DELETE", None)]
)
def test_hidden_indexes(site: DevpiSite, bob: tuple[str, str], method: str, body: object) -> None:
    """To a stranger one that may not be read is as one that is not there."""
    ann = site.user("ann")
    site.call("PUT", "/bob/private", {"acl_pkg_read": "bob"}, bob)
    hidden, absent = (site.call(method, f"/bob/{n}", body, ann) for n in ("private", "absent"))
    assert (hidden.status, absent.status) == (404, 404)
    assert hidden.message == absent.message.replace("absent", "private")
    anonymous = site.call(method, "/bob/private", body, None)
    assert anonymous.status == 401
    assert anonymous.headers["www-authenticate"].startswith("Basic ")
    assert site.call(method, "/bob/private", body, bob).status in (200, 201)


@pytest.mark.parametrize(
    ("method", "body"), [("PUT", {}), ("PATCH", ["title=x"]), ("DELETE", None)]
)
def test_strangers_change_nothing(
    site: DevpiSite, bob: tuple[str, str], method: str, body: object
) -> None:
    """Only owner, root and those in `acl_admin` change an index."""
    path = "/bob/dev" if method != "PUT" else "/bob/new"
    assert site.call(method, path, body, None).status == 401
    assert site.call(method, path, body, site.user("ann")).status == 403
    site.call("PATCH", "/bob/dev", ["acl_admin+=carl"], bob)
    expected = {"PUT": 403, "PATCH": 200, "DELETE": 201}[method]
    assert site.call(method, path, body, site.user("carl")).status == expected


def test_delete(site: DevpiSite, bob: tuple[str, str]) -> None:
    """A volatile index goes; one that is not stays."""
    site.call("PATCH", "/bob/dev", ["volatile=no"], bob)
    kept = site.call("DELETE", "/bob/dev", auth=bob)
    assert (kept.status, kept.message) == (403, "index bob/dev non-volatile, cannot delete")
    site.call("PATCH", "/bob/dev", ["volatile=yes"], bob)
    gone = site.call("DELETE", "/bob/dev", auth=bob)
    assert (gone.status, gone.json) == (201, {"message": "index bob/dev deleted"})
    assert site.call("GET", "/bob/dev").status == 404
    assert site.call("DELETE", "/bob/dev", auth=bob).status == 404


def test_projects_are_its_own(site: DevpiSite, bob: tuple[str, str]) -> None:
    """Sorted, normalized, without those of bases; also when there are thousands."""
    site.call("PUT", "/bob/prod", {"bases": "bob/dev"}, bob)
    named = {"bob/dev": ["Zope", "a.b"], "bob/prod": [f"p{n:04}" for n in range(4_001)]}
    for index, names in named.items():
        for name in names:
            project = {"index": index, "project": name.lower().replace(".", "-"), "name": name}
            site.write(Change(Kind.PROJECT_REGISTERED, project))
    assert site.call("GET", "/bob/dev").result["projects"] == ["a-b", "zope"]
    assert site.call("GET", "/bob/prod").result["projects"] == named["bob/prod"]


def test_projects_of_a_mirror(site: DevpiSite) -> None:
    """The upstream's names; while it is in trouble those that are known, and 502 for none."""
    site.call("PUT", "/root/up", MIRROR)
    site.mirror.error = "out of reach"
    answer = site.call("GET", "/root/up")
    assert (answer.status, answer.message) == (
        502, "no project list of root/up is known: out of reach"
    )  # fmt: skip
    assert site.call("GET", "/root/up?no_projects").status == 200
    assert site.mirror.asked == ["root/up"]
    site.write(Change(Kind.MIRROR_LISTING, {"index": "root/up", "added": ["Django"]}))
    assert site.call("GET", "/root/up").result["projects"] == ["django"]


@pytest.mark.parametrize("agent", ["pip/24.0 {}", "uv/0.5", "x/1 setuptools/70"])
def test_installers_are_sent_to_the_simple_api(
    site: DevpiSite, bob: tuple[str, str], agent: str
) -> None:
    """pip pointed at the index itself finds its pages; who accepts JSON gets JSON."""
    answer = site.call("GET", "/bob/dev", accept="text/html", agent=agent)
    assert (answer.status, answer.headers["location"]) == (302, "/bob/dev/+simple/")
    assert site.call("GET", "/bob/dev", agent=agent).json["type"] == "indexconfig"
    assert site.call("GET", "/bob/dev", accept="*/*", agent="pipx").status == 200


def test_discovery(site: DevpiSite, bob: tuple[str, str]) -> None:
    """Where things are; a mirror takes no uploads, and hidden indexes are nowhere."""
    site.call("PUT", "/root/up", MIRROR)
    base = "http://mirror.example"
    top = site.call("GET", "/bob/+api").result
    assert top["login"] == f"{base}/+login"
    assert top["features"] == [
        "push-no-docs", "push-only-docs", "push-register-project", "server-keyvalue-parsing"
    ]  # fmt: skip
    stage, mirror = (site.call("GET", f"/{n}/+api").result for n in ("bob/dev", "root/up"))
    assert stage["index"] == f"{base}/bob/dev"
    assert stage["simpleindex"] == f"{base}/bob/dev/+simple/"
    assert stage["pypisubmit"] == f"{base}/bob/dev/"
    assert "pypisubmit" not in mirror
    site.call("PATCH", "/bob/dev", ["acl_pkg_read=bob"], bob)
    assert site.call("GET", "/bob/dev/+api", auth=None).status == 401
    assert site.call("GET", "/bob/none/+api", auth=bob).status == 404
