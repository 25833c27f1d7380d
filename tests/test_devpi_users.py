"""Users over HTTP: who may do what, what is kept, and what is never shown or logged."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.auth.passwords import hash_password, matches
from cluster.auth.tokens import TokenLimits, mint
from cluster.log.changes import Change, Kind
from tests.devpi_site import ELSEWHERE, DevpiSite, devpi_site
from tests.fakes import NOW

ROOT = ("root", "")


@pytest.fixture
def site(tmp_path: Path) -> Iterator[DevpiSite]:
    with devpi_site(tmp_path) as made:
        yield made


def test_everybody_may_create_users(site: DevpiSite) -> None:
    """The answer, and what is shown later, is all but the password; that is in a blob alone."""
    body = {"password": "a secret", "email": "bob@bob.example", "title": "", "username": "x"}
    made = site.call("PUT", "/bob", body, None)
    assert made.status == 201
    assert made.json["type"] == "userconfig"
    assert made.result == {
        "username": "bob", "email": "bob@bob.example", "indexes": {},
        "created": "2023-11-14T22:13:20Z",
    }  # fmt: skip
    assert site.call("GET", "/bob", auth=None).result == made.result
    assert site.call("GET", "/", auth=None).result["bob"] == made.result
    entry = site.log()[-1]
    assert entry.actor == "+anonymous"
    assert made.headers["x-pymirror-serial"] == str(entry.serial)
    assert b"a secret" not in entry.raw
    assert b"argon2" not in entry.raw
    assert matches(site.blobs.get(entry.payload["password"]).decode(), "a secret")


@pytest.mark.parametrize(
    ("path", "body", "status", "message"),
    [
        ("/root", {"password": "x"}, 409, "user already exists"),
        ("/bob", {"email": "x"}, 400, "password needs to be set"),
        ("/bob", None, 400, "password needs to be set"),
        ("/bob", {"password": 3}, 400, "a password and its hash must be texts"),
        ("/bob", {"password": "x", "b": 1, "a": 2}, 400, "Unknown keys in user config: a, b"),
        ("/bob", {"password": "x", "custom_data": 0.5}, 400, "custom_data holds a number with"),
        ("/bob", b"{", 400, "Bad request: could not decode json"),
        ("/bob", [], 400, "the body must be a JSON object"),
        ("/a!b", {"password": "x"}, 400, "username 'a!b' contains characters that aren't allowed"),
        ("/+b", {"password": "x"}, 400, "username '+b' contains"),
        ("/__token__", {"password": "x"}, 400, "username '__token__' stands for API tokens"),
    ],
)
def test_create_refused(
    site: DevpiSite, path: str, body: object, status: int, message: str
) -> None:
    """What is wrong is said, and nothing is recorded."""
    answer = site.call("PUT", path, body)
    assert (answer.status, answer.message[: len(message)]) == (status, message)
    assert len(site.log()) == 1


def test_wrong_credentials_create_nothing(site: DevpiSite) -> None:
    """A login that has ended is not taken for nobody's request."""
    assert site.call("PUT", "/bob", {"password": "x"}, ("root", "wrong")).status == 401


def test_only_root_may_give_a_hash(site: DevpiSite) -> None:
    """A hash is kept as it is; what is none is refused, whoever sends it."""
    stored = hash_password("old secret")
    assert site.call("PUT", "/bob", {"pwhash": stored}, None).status == 401
    assert site.call("PUT", "/bob", {"pwhash": stored}, site.user("ann")).status == 403
    assert site.call("PUT", "/bob", {"pwhash": "nonsense"}).status == 400
    assert site.call("PUT", "/bob", {"pwhash": stored}).status == 201
    login = {"user": "bob", "password": "old secret"}
    assert site.call("POST", "/+login", login, None).status == 200


def test_an_empty_password_counts_here_alone(site: DevpiSite) -> None:
    """Who has none can log in from this machine and from nowhere else."""
    site.call("PUT", "/bob", {"password": ""})
    login = {"user": "bob", "password": ""}
    assert site.call("POST", "/+login", login, None).status == 200
    assert site.call("POST", "/+login", login, None, address=ELSEWHERE).status == 401


def test_change(site: DevpiSite) -> None:
    """Keys are merged, empty ones go, unknown ones are dropped, and the time is kept."""
    bob = site.user("bob")
    site.now[0] = NOW + 60
    body = {
        "email": "b@bob.example",
        "title": "T",
        "shoe_size": 43,
        "created": "2001",
        "indexes": {},
    }
    answer = site.call("PATCH", "/bob", body, bob)
    assert answer.json == {"message": "user updated"}
    shown = site.call("GET", "/bob").result
    assert (shown["title"], shown["created"]) == ("T", "2023-11-14T22:13:20Z")
    assert shown["modified"] == "2023-11-14T22:14:20Z"
    assert "shoe_size" not in shown
    assert site.call("PATCH", "/bob/", {"email": "", "title": None}, bob).status == 200
    assert {"email", "title"} & site.call("GET", "/bob/").result.keys() == set()


def test_a_change_of_nothing_records_nothing(site: DevpiSite) -> None:
    """Sending back what was got makes no serial."""
    bob = site.user("bob")
    site.call("PATCH", "/bob", {"title": "T"}, bob)
    before = len(site.log())
    for body in ({}, site.call("GET", "/bob").result, {"email": ""}):
        assert site.call("PATCH", "/bob", body, bob).status == 200
    assert len(site.log()) == before


def test_a_new_password_ends_logins(site: DevpiSite) -> None:
    """Old password and login token are out; the answer holds a login token that is good."""
    bob = site.user("bob")
    login = {"user": bob[0], "password": bob[1]}
    token = site.call("POST", "/+login", login, None).result["password"]
    assert site.call("PATCH", "/bob", {"title": "T"}, ("bob", token)).status == 200
    answer = site.call("PATCH", "/bob", {"password": "another"}, ("bob", token))
    assert answer.json["type"] == "userpassword"
    assert answer.result["expiration"] == 36000
    for old in (token, bob[1]):
        assert site.call("PATCH", "/bob", {"title": "U"}, ("bob", old)).status == 401
    for new in (answer.result["password"], "another"):
        assert site.call("PATCH", "/bob", {"title": "U"}, ("bob", new)).status == 200


@pytest.mark.parametrize("method", ["PATCH", "DELETE"])
def test_others_have_no_say(site: DevpiSite, method: str) -> None:
    """Only root learns whether somebody else exists; root itself stays."""
    ann, bob = site.user("ann"), site.user("bob")
    asked = {"title": "x"} if method == "PATCH" else None
    for name in ("bob", "nobody"):
        assert site.call(method, f"/{name}", asked, None).status == 401
        assert site.call(method, f"/{name}", asked, ann).status == 403
    assert site.call(method, "/nobody", asked).status == 404
    assert site.call(method, "/bob", asked, bob).status == 200
    if method == "DELETE":
        assert site.call("DELETE", "/root").status == 403
        assert site.call("GET", "/bob").status == 404


def test_delete_takes_the_indexes_along(site: DevpiSite) -> None:
    """One write removes the indexes and the user, unless an index is to stay."""
    bob = site.user("bob")
    for name in ("dev", "prod"):
        assert site.call("PUT", f"/bob/{name}", {}, bob).status == 200
    site.call("PATCH", "/bob/prod", ["volatile=False"], bob)
    kept = site.call("DELETE", "/bob", auth=bob)
    assert (kept.status, kept.message) == (403, "user 'bob' has non-volatile index: prod")
    site.call("PATCH", "/bob/prod", ["volatile=True"], bob)
    assert site.call("DELETE", "/bob", auth=bob).message == "user 'bob' deleted"
    kinds = [(entry.kind, entry.payload.get("index")) for entry in site.log()[-3:]]
    assert kinds == [
        (Kind.INDEX_REMOVED, "bob/dev"), (Kind.INDEX_REMOVED, "bob/prod"), (Kind.USER_REMOVED, None)
    ]  # fmt: skip
    assert site.call("GET", "/bob/dev").status == 404


def test_api_tokens_change_no_users(site: DevpiSite) -> None:
    """Not even with all rights, and not their own user."""
    site.user("bob")
    text, token = mint("bob", TokenLimits(frozenset({"read", "upload"})), "", 9_999, NOW)
    site.write(Change(Kind.TOKEN_ADDED, token.to_payload()))
    bearer = ("bob", text)
    assert site.call("GET", "/+api", auth=bearer).result["authstatus"] == ["ok", "bob", []]
    assert site.call("PUT", "/carl", {"password": "x"}, bearer).status == 403
    assert site.call("PATCH", "/bob", {"password": "x"}, bearer).status == 403
    assert site.call("DELETE", "/bob", auth=bearer).status == 403
    assert site.call("PUT", "/bob/dev", {}, bearer).status == 403


def test_hidden_indexes_are_not_listed(site: DevpiSite) -> None:
    """Who may not read an index does not see its name, on any of the lists."""
    ann, bob = site.user("ann"), site.user("bob")
    site.call("PUT", "/bob/private", {"acl_pkg_read": "bob"}, bob)
    site.call("PUT", "/bob/open", {}, bob)
    for auth, names in ((None, {"open"}), (ann, {"open"}), (bob, {"open", "private"})):
        assert site.call("GET", "/bob", auth=auth).result["indexes"].keys() == names
        assert site.call("GET", "/", auth=auth).result["bob"]["indexes"].keys() == names
        front = site.call("GET", "/", auth=auth, accept="*/*")
        assert front.headers["content-type"] == "text/plain; charset=utf-8"
        assert (b"/bob/private/+simple/" in front.body) == ("private" in names)


def test_restrict_modify(tmp_path: Path) -> None:
    """Only those listed create and change users and indexes; own passwords excepted."""
    with devpi_site(tmp_path, frozenset({"boss"})) as site:
        stored = site.blobs.add(hash_password("x").encode())
        for name in ("boss", "bob"):
            site.write(Change(Kind.USER_SET, {"user": name, "password": stored, "options": {}}))
        boss, bob = ("boss", "x"), ("bob", "x")
        for who, status in ((None, 401), (bob, 403), (ROOT, 403), (boss, 201)):
            assert site.call("PUT", "/new", {"password": "x"}, who).status == status
        assert site.call("PUT", "/bob/old", {}, boss).status == 200
        for who, status in ((bob, 403), (ROOT, 403), (boss, 200)):
            assert site.call("PATCH", "/bob", {"title": "T"}, who).status == status
            assert site.call("PUT", "/bob/dev", {}, who).status == status
            assert site.call("PATCH", "/bob/old", ["title=T"], who).status == status
        assert site.call("PATCH", "/bob", {"password": "y", "title": "U"}, bob).status == 403
        # As `devpi passwd` sends it: all that is known, and the password.
        same = {**site.call("GET", "/bob").result, "password": "y"}
        assert site.call("PATCH", "/bob", same, bob).status == 200
        assert site.call("DELETE", "/bob", auth=("bob", "y")).status == 403
        assert site.call("DELETE", "/bob", auth=boss).status == 200


def test_login(site: DevpiSite) -> None:
    """A token that serves as password; wrong passwords and requests are told apart by status."""
    bob = site.user("bob")
    answer = site.call("POST", "/+login", {"user": "bob", "password": bob[1]}, None)
    assert answer.json["message"] == "login successful"
    assert answer.json["type"] == "proxyauth"
    assert answer.result["expiration"] == 36000
    assert answer.headers["content-type"] == "application/json"
    api = site.call("GET", "/+api", auth=("bob", answer.result["password"]))
    assert api.result["authstatus"] == ["ok", "bob", []]
    wrong = site.call("POST", "/+login", {"user": "bob", "password": "x"}, None)
    assert (wrong.status, wrong.message) == (401, "user 'bob' could not be authenticated")
    for body in ({"user": "bob"}, {"password": "x"}, {"user": 1, "password": "x"}, b"no"):
        assert site.call("POST", "/+login", body, None).status == 400
    assert site.call("GET", "/+api", auth=("bob", "x")).result["authstatus"] == ["noauth", "", []]
