"""Every way in which a request is refused: status, message and content type, over raw HTTP.

The messages are devpi-server's, as regular expressions: devpi-client prints them, but only if the
content type is ``application/json`` and nothing more.
"""

from __future__ import annotations

import json
import re

import pytest
from attrs import frozen

from tests.builders import FormValue, legacy_form, sdist, wheel
from tests.functional.devpi.servers import (
    ANONYMOUS,
    ROOT,
    Account,
    Deployment,
    Server,
    new_account,
    new_index,
    unique,
)
from tests.processes import Answer, free_port

pytestmark = pytest.mark.functional


@frozen
class Scene:
    """What the cases refer to by name in their paths and bodies."""

    server: Server
    me: Account
    names: dict[str, str]
    is_peer: bool

    def auth(self, who: str) -> dict[str, str]:
        """The header of `me`, `root` or nobody."""
        return {"me": self.me.auth, "root": ROOT, "": ANONYMOUS}[who]

    def fill(self, text: str) -> str:
        """Replace <name> by what it stands for here."""
        return re.sub("<([a-z]+)>", lambda match: self.names[match[1]], text)


@pytest.fixture(scope="module", params=["primary", "replica"])
def scene(request: pytest.FixtureRequest, deployment: Deployment) -> Scene:
    """Indexes of two users, volatile and not, with a release each, and mirrors in trouble."""
    server = deployment.primary if request.param == "primary" else deployment.replica
    me, other = new_account(server), new_account(server)
    project, gone = unique("wrong"), unique("gone")
    lost = wheel(unique("lost"), "1.0")
    deployment.upstream.add("json", lost)
    dev = new_index(server, me)
    prod = new_index(server, me, "prod", volatile=False)
    theirs = new_index(server, other, acl_toxresult_upload=[])
    mirrors = {
        name: new_index(server, me, name, type="mirror", mirror_url=url)
        for name, url in (
            ("up", f"{deployment.upstream.url}/json/simple/"),
            ("broken", f"http://127.0.0.1:{free_port()}/simple/"),
        )
    }
    built = wheel(project, "1.0")
    for index, account in ((dev, me), (prod, me), (theirs, other)):
        assert server.upload(index, built, account.auth).status == 200
    dropped = wheel(gone, "1.0")
    assert server.upload(dev, dropped, me.auth).status == 200
    server.made("DELETE", f"/{dev}/{gone}", None, me.auth)
    server.made("PUT", f"/{me.name}/empty", {"title": "T"}, me.auth)
    for mirror in mirrors.values():
        server.call("GET", f"/{mirror}/+simple/")  # what it learns now gives no serials later
    page = server.result(f"/{mirrors['up']}/{lost.name}")
    lost_path = page["1.0"]["+links"][0]["href"].partition("#")[0].removeprefix(server.url)
    deployment.upstream.remove("json", lost)
    names = {
        "me": me.name, "other": other.name, "dev": dev, "prod": prod, "theirs": theirs,
        "p": project, "gone": gone, "nothing": unique("nothing"), "up": mirrors["up"],
        "broken": mirrors["broken"], "empty": f"{me.name}/empty", "lost": lost_path,
        "file": f"+f/{built.sha256[:3]}/{built.sha256[3:16]}/{built.filename}",
        "deleted": f"+f/{dropped.sha256[:3]}/{dropped.sha256[3:16]}/{dropped.filename}",
    }  # fmt: skip
    return Scene(server, me, names, deployment.is_peer)


@frozen
class Case:
    """A request and its refusal; `data` is sent as it stands if it is text, else as JSON.

    `devpi` is what devpi-server answers where pymirror's answer is better: whoever has not said
    who they are is asked (401), and what does not exist is not forbidden but not found.
    """

    request: str
    who: str
    data: object
    status: int
    message: str
    devpi: int | None = None


NOT_FOUND_STAGE = "The stage <me>/none could not be found"
LOGIN = "needs a user and a password"
DENIED = "denied|permission|not allowed|forbidden"
CASES = (
    # --- login
    Case("POST /+login", "", "no json", 400, "json|decode"),
    Case("POST /+login", "", {"user": "root"}, 400, "password|bad request|parameter|missing"),
    Case("POST /+login", "", {"password": "x"}, 400, "user|bad request|parameter|missing"),
    Case(
        "POST /+login", "", {"user": "<me>", "password": "wrong"}, 401,
        "user '<me>' could not be authenticated",
    ),
    Case(
        "POST /+login", "", {"user": "<nothing>", "password": "x"}, 401,
        "user '<nothing>' could not be authenticated",
    ),
    Case("GET /<me>/none/+api", "", None, 404, NOT_FOUND_STAGE),
    # --- users
    Case("GET /<nothing>", "", None, 404, "no user '<nothing>'"),
    Case("PUT /<me>", "", {"password": "12345678"}, 409, "user already exists"),
    Case("PUT /<nothing>", "", {"email": "x"}, 400, "password needs to be set"),
    Case("PUT /<nothing>", "", {"password": "12345678", "shoe": 1}, 400, "shoe"),
    Case("PUT /a%21b", "", {"password": "12345678"}, 400, "characters that aren't allowed"),
    Case("PUT /<nothing>", "", "no json", 400, "json|decode"),
    Case("PATCH /<other>", "me", {"email": "x"}, 403, "no permission to modify user"),
    Case("PATCH /<me>", "", {"email": "x"}, 401, LOGIN, devpi=403),
    Case("PATCH /<other>", "me", {"password": "x"}, 403, "no permission to (change|modify)"),
    Case("PATCH /<nothing>", "root", {"email": "x"}, 404, "no user|not found|not exist"),
    Case("PATCH /<me>", "me", "no json", 400, "json|decode"),
    Case("DELETE /root", "root", None, 403, f"root|{DENIED}"),
    Case("DELETE /<other>", "me", None, 403, DENIED),
    Case("DELETE /<me>", "", None, 401, LOGIN, devpi=403),
    Case("DELETE /<nothing>", "root", None, 404, "no user '<nothing>'"),
    Case("DELETE /<nothing>", "me", None, 403, DENIED),
    Case("DELETE /<me>", "me", None, 403, "volatile"),
    # --- indexes
    Case("GET /<me>/none", "", None, 404, NOT_FOUND_STAGE),
    Case("PUT /<dev>", "me", {}, 409, "index '<dev>' exists"),
    Case("PUT /<me>/new", "", {}, 401, LOGIN, devpi=403),
    Case("PUT /<other>/new", "me", {}, 403, DENIED),
    Case("PUT /<nothing>/new", "root", {}, 404, "user '?<nothing>'?|not found|not exist"),
    Case("PUT /<nothing>/new", "me", {}, 404, "no user"),
    Case("PUT /<me>/a%21b", "me", {}, 400, "characters that aren't allowed"),
    Case("PUT /<me>/new", "me", "no json", 400, "json|decode"),
    Case("PUT /<me>/new", "me", {"type": "odd"}, 400, "unknown index type '?odd|odd"),
    Case("PUT /<me>/new", "me", {"bases": "a/b"}, 400, "base index 'a/b' does not exist"),
    Case("PUT /<me>/new", "me", {"bases": "a"}, 400, "invalid base index spec: 'a'"),
    Case("PUT /<me>/new", "me", {"volatile": "maybe"}, 400, "volatile|boolean|truth|maybe"),
    Case(
        "PUT /<me>/new", "me", {"shoe": 1, "hat": 2}, 400,
        "indexconfig got unexpected keyword arguments: (hat|shoe).*(hat|shoe)",
    ),
    Case(
        "PUT /<me>/new", "me", {"bases": "a/b,x/y/z"}, 400,
        "invalid base index spec: 'x/y/z'",
    ),
    Case(
        "PUT /<me>/new", "me", {"type": "mirror", "mirror_url": "ftp://x.example/"}, 400,
        "mirror_url|http",
    ),
    Case(
        "PUT /<me>/new", "me", {"type": "mirror", "mirror_cache_expiry": "x"}, 400,
        "mirror_cache_expiry|invalid literal|integer",
    ),
    Case("PATCH /<me>/none", "me", {"title": "x"}, 404, NOT_FOUND_STAGE, devpi=403),
    Case("PATCH /<dev>", "", {"title": "x"}, 401, LOGIN, devpi=403),
    Case("PATCH /<theirs>", "me", {"title": "x"}, 403, DENIED),
    Case("PATCH /<dev>", "me", {"type": "mirror"}, 400, "type"),
    Case("PATCH /<dev>", "me", {"shoe": 1}, 400, "unexpected keyword arguments: shoe"),
    Case("PATCH /<dev>", "me", ["acl_upload-=nobody"], 400, "acl_upload|nobody"),
    Case("PATCH /<dev>", "me", ["volatile-="], 400, "Default values can't be removed"),
    Case("PATCH /<dev>", "me", ["no operator"], 400, "no operator|operation|bad request"),
    Case("PATCH /<dev>", "me", "no json", 400, "json|decode"),
    Case("PATCH /<empty>?error_on_noop", "me", ["title=T"], 400, "resulted in no changes"),
    Case("DELETE /<prod>", "me", None, 403, "volatile"),
    Case("DELETE /<theirs>", "me", None, 403, DENIED),
    Case("DELETE /<dev>", "", None, 401, LOGIN, devpi=403),
    Case("DELETE /<me>/none", "root", None, 404, NOT_FOUND_STAGE, devpi=403),
    # --- projects, versions, files
    Case("GET /<dev>/<nothing>", "", None, 404, "no project '<nothing>'"),
    Case("GET /<me>/none/<p>", "", None, 404, NOT_FOUND_STAGE),
    Case("GET /<dev>/<p>/9.9", "", None, 404, "no version|no release|9.9"),
    Case("GET /<dev>/+f/000/0000000000000/none-1.0.tar.gz", "", None, 404, "no|not"),
    Case("GET /<dev>/<deleted>", "", None, 410, "deleted|gone|removed|existed"),
    Case("DELETE /<dev>/<nothing>", "me", None, 404, "<nothing>|project not found"),
    Case("DELETE /<dev>/<p>/9.9", "me", None, 404, "9.9"),
    Case("DELETE /<dev>/+f/000/0000000000000/none-1.0.tar.gz", "me", None, 404, "no|not"),
    Case("DELETE /<dev>/<deleted>", "me", None, 410, "deleted|gone|removed|no longer|exist"),
    Case("DELETE /<prod>/<p>", "me", None, 403, "non-volatile|not volatile"),
    Case("DELETE /<prod>/<p>/1.0", "me", None, 403, "non-volatile|not volatile"),
    Case("DELETE /<prod>/<file>", "me", None, 403, "non-volatile|not volatile"),
    Case("DELETE /<theirs>/<p>", "me", None, 403, DENIED),
    Case("DELETE /<theirs>/<p>/1.0", "me", None, 403, DENIED),
    Case("DELETE /<theirs>/<file>", "me", None, 403, DENIED),
    Case("DELETE /<dev>/<p>", "", None, 401, LOGIN, devpi=403),
    # --- push
    Case("PUSH /<dev>", "me", "no json", 400, "json|decode"),
    Case(
        "PUSH /<dev>", "me", {"name": "<p>", "version": "9.9", "targetindex": "<prod>"}, 400,
        "no release|9.9|no metadata|not found",
    ),
    Case(
        "PUSH /<dev>", "me", {"name": "<p>", "version": "1.0", "targetindex": "bad"}, 400,
        "target",
    ),
    Case(
        "PUSH /<dev>", "me", {"name": "<p>", "version": "1.0", "targetindex": "<me>/none"}, 404,
        "<me>/none",
    ),
    Case(
        "PUSH /<dev>", "me", {"name": "<p>", "version": "1.0", "targetindex": "<theirs>"}, 401,
        "user '?<me>'? cannot upload|cannot|permission",
    ),
    Case(
        "PUSH /<dev>", "me",
        {"name": "<p>", "version": "1.0", "targetindex": "<prod>", "no_docs": True,
         "only_docs": True}, 400, "no_docs|only_docs|docs",
    ),
    Case(
        "PUSH /<dev>", "me",
        {"name": "<p>", "version": "1.0", "targetindex": "<prod>", "shoe": 1}, 400, "shoe",
    ),
    Case(
        "PUSH /<me>/none", "me", {"name": "<p>", "version": "1.0", "targetindex": "<prod>"}, 404,
        NOT_FOUND_STAGE,
    ),
    # --- test results
    Case("POST /<dev>/<file>", "", "no json", 400, "json|decode|toxresult"),
    Case("POST /<theirs>/<file>", "me", {"a": 1}, 403, "no permission to upload tox results"),
    Case(
        "POST /<dev>/+f/000/0000000000000/none-1.0.tar.gz", "", {"a": 1}, 404, "no|not",
    ),
)  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.request}-{case.status}")
def test_refusal(scene: Scene, case: Case) -> None:
    """The request is refused with this status and message, as JSON, and makes no serial."""
    method, path = scene.fill(case.request).split(" ")
    text = case.data if isinstance(case.data, str) else json.dumps(case.data)
    data = None if case.data is None else scene.fill(text).encode()
    before = _serial(scene.server)
    answer = scene.server.call(method, path, data, scene.auth(case.who))
    if scene.is_peer and case.devpi is not None:
        assert answer.status == case.devpi, answer
        return
    assert answer.status == case.status, answer
    _check(answer, scene.fill(case.message))
    assert answer.headers["x-devpi-api-version"] == "2"
    assert _serial(scene.server) == before


def test_file_lost_upstream(scene: Scene) -> None:
    """A file that a mirror lists and its upstream has no more is 404."""
    answer = scene.server.call("GET", scene.names["lost"], Accept="*/*")
    assert answer.status in ({404, 502} if scene.is_peer else {404}), answer
    assert b"lost" in answer.body


@pytest.mark.parametrize("path", ["some", "+simple/some/"])
def test_upstream_away(scene: Scene, path: str, ours: None) -> None:
    """A mirror that cannot reach its upstream, and has seen nothing of it before, says 502."""
    answer = scene.server.call("GET", f"/{scene.names['broken']}/{path}")
    assert answer.status == 502, answer


# What is wrong with an upload: the fields that differ from a good one, the status, the reason.
UPLOADS: tuple[tuple[dict[str, FormValue], int, str], ...] = (
    ({"action": None}, 400, "action|bad request"),
    ({"action": "dance"}, 400, "action.*dance|dance"),
    ({"name": None}, 400, "name"),
    ({"version": None}, 400, "version"),
    ({"filename": "<p>-2.0-py3-none-any.whl"}, 400, "version"),
    ({"filename": "<p>-1.0.exe.txt"}, 400, "archive|filename|name"),
    ({"filename": "other-1.0-py3-none-any.whl"}, 400, "project|name"),
    ({"name": "a b"}, 400, "name|invalid|characters"),
    ({"version": "1.0 beta?"}, 400, "version|invalid"),
)


@pytest.mark.parametrize(
    ("fields", "status", "reason"), UPLOADS, ids=[str(upload[0]) for upload in UPLOADS]
)
def test_upload_refusal(
    scene: Scene, fields: dict[str, FormValue], status: int, reason: str
) -> None:
    """A wrong upload is refused, and the reason phrase says why: uploaders show nothing else."""
    filled = {k: scene.fill(v) if isinstance(v, str) else v for k, v in fields.items()}
    content_type, body = legacy_form(wheel(scene.names["p"], "1.0", size=10), **filled)
    answer = scene.server.call(
        "POST", f"/{scene.names['dev']}/", body, scene.me.auth, Content_Type=content_type
    )
    if scene.is_peer and answer.status == 500:
        pytest.skip("devpi-server falls over it")
    assert answer.status == status, answer
    assert re.search(scene.fill(reason), answer.reason, re.IGNORECASE), answer.reason


@pytest.mark.parametrize(
    ("index", "who", "status", "reason"),
    [
        ("dev", "", 401, ".*"),
        ("theirs", "me", 403, "no permission to submit"),
        ("theirs", "root", 403, "no permission to submit"),
        ("up", "me", 404, "cannot submit to mirror index"),
        ("prod", "me", 409, "already exists in non-volatile index"),
    ],
)
def test_upload_not_here(scene: Scene, index: str, who: str, status: int, reason: str) -> None:
    """A good upload to a place that does not take it; who is anonymous is asked for a name."""
    built = wheel(scene.names["p"], "1.0", size=10)
    answer = scene.server.upload(scene.names[index], built, scene.auth(who))
    assert answer.status == status, answer
    assert re.search(reason, answer.reason, re.IGNORECASE), answer.reason
    if status == 401:
        assert answer.headers["www-authenticate"].startswith("Basic realm=")


def test_upload_without_file(scene: Scene) -> None:
    """file_upload needs a file."""
    name = scene.names["p"].encode()
    body = b"".join(
        b'--x\r\nContent-Disposition: form-data; name="%s"\r\n\r\n%s\r\n' % field
        for field in ((b":action", b"file_upload"), (b"name", name), (b"version", b"1.0"))
    )
    answer = scene.server.call(
        "POST", f"/{scene.names['dev']}/", body + b"--x--\r\n", scene.me.auth,
        Content_Type="multipart/form-data; boundary=x",
    )  # fmt: skip
    assert answer.status == 400
    assert "content" in answer.reason


def test_docs_without_release(scene: Scene) -> None:
    """Documentation without a version needs a release to belong to."""
    answer = scene.server.upload_docs(scene.names["dev"], unique("none"), "", b"x", scene.me.auth)
    assert answer.status == 400, answer


def test_push_onto_another_file(scene: Scene) -> None:
    """A push never replaces a file of a non-volatile index."""
    project = unique("clash")
    for index, size in (("dev", 10), ("prod", 20)):
        built = sdist(project, "1.0", size=size)
        assert scene.server.upload(scene.names[index], built, scene.me.auth).status == 200
    order = {"name": project, "version": "1.0", "targetindex": scene.names["prod"]}
    answer = scene.server.call("PUSH", f"/{scene.names['dev']}", order, scene.me.auth)
    assert answer.status == 409, answer
    assert answer.headers["content-type"] == "application/json"


def test_push_without_files(scene: Scene) -> None:
    """A release that has no files cannot be pushed."""
    fields = {":action": "submit", "name": (name := unique("bare")), "version": "1.0"}
    body = "".join(
        f'--x\r\nContent-Disposition: form-data; name="{key}"\r\n\r\n{value}\r\n'
        for key, value in fields.items()
    )
    answer = scene.server.call(
        "POST", f"/{scene.names['dev']}/", f"{body}--x--\r\n".encode(), scene.me.auth,
        Content_Type="multipart/form-data; boundary=x",
    )  # fmt: skip
    assert answer.status == 200, answer
    order = {"name": name, "version": "1.0", "targetindex": scene.names["prod"]}
    answer = scene.server.call("PUSH", f"/{scene.names['dev']}", order, scene.me.auth)
    assert answer.status == 404, answer
    _check(answer, "no (release )?files|no links|files")


@pytest.mark.parametrize("auth", ["Basic %%%", "Basic Og==", "Bearer x", "Nonsense"])
def test_bad_credentials_read(scene: Scene, auth: str) -> None:
    """Credentials that say nothing leave a reader anonymous."""
    answer = scene.server.call("GET", "/+api", None, {"Authorization": auth})
    assert answer.status == 200
    assert answer.json()["result"]["authstatus"] == ["noauth", "", []]


def _serial(server: Server) -> str:
    return server.call("GET", "/+api").headers["x-devpi-serial"]


def _check(answer: Answer, message: str) -> None:
    assert answer.headers["content-type"] == "application/json", answer
    said = answer.json()["message"]
    assert re.search(message, said, re.IGNORECASE), said
