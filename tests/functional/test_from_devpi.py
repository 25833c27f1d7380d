"""A team switches over: what a real devpi-server had, a pymirror cluster has.

The dump is made by devpi-server, filled by devpi-client and exported by devpi-export; the
commands are those of docs/from-devpi.md.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import shlex
import shutil
import subprocess
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from attrs import define, field, frozen

from tests.builders import legacy_form, sdist, wheel
from tests.functional.devpi_server import (
    DevpiServer,
    beside,
    docs_form,
    odd_form,
    run,
    submit_form,
)
from tests.functional.helpers import check_same_pages, check_same_roots
from tests.processes import CHECKOUT, Answer, Cluster, Node, basic, free_port, http

pytestmark = [pytest.mark.functional, pytest.mark.slow]

NOWHERE = "http://127.0.0.1:9/simple/"
STAGES = ("alice/zbase", "alice/dev", "bob/prod")
PASSWORDS = {"root": "root-pw", "alice": "alice-pw", "bob": "bob-pw", "carol": "carol's älter pw"}
JSON = {"Accept": "application/json"}

SIMPLE = wheel("simple", "2.0")
ODD = (
    wheel("Odd_Name.Pkg", "1.0", requires_python=">=3.8", requires=["simple>1"]),
    sdist("Odd_Name.Pkg", "1.0"),
    wheel("Odd_Name.Pkg", "1.1b2", size=3_000_000),
)
EGG = wheel("eggy", "1.0")
TOX = {"testenvs": {"py311": {"test": [], "setup": []}}, "seconds": 1.5}


@frozen
class Old:
    """A server that has ended, its dump, and what it had said before."""

    server: DevpiServer
    dump: Path
    users: dict[str, Any]
    projects: dict[str, dict[str, Any]]


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> Old:
    """A devpi-server's life in a nutshell."""
    folder = tmp_path_factory.mktemp("devpi")
    server = DevpiServer(folder)
    try:
        server.start()
        _users_and_indexes(server)
        _releases(server)
        _pushes_and_overwrites(server)
        users, projects = _users(server.url), {name: _projects(server.url, name) for name in STAGES}
        dump = server.export(folder / "dump")
    finally:
        server.kill()
    _age(dump / "dataindex.json")
    return Old(server, dump, users, projects)


def _login(server: DevpiServer, user: str) -> None:
    server.client("login", user, f"--password={PASSWORDS[user]}")


def _users_and_indexes(server: DevpiServer) -> None:
    server.client("login", "root", "--password=")
    server.client("user", "-m", "root", f"password={PASSWORDS['root']}", "title=The root")
    _login(server, "root")
    server.client(
        "user", "-c", "alice", f"password={PASSWORDS['alice']}", "email=alice@a.example",
        "title=Alice A",
    )  # fmt: skip
    server.client("user", "-c", "bob", f"password={PASSWORDS['bob']}", "email=bob@b.example")
    server.client(
        "index", "-c", "root/pypi", "type=mirror", f"mirror_url={NOWHERE}", "title=Upstream",
        "mirror_cache_expiry=600", "mirror_web_url_fmt=http://web.example/{name}", "volatile=False",
    )  # fmt: skip
    _login(server, "alice")
    server.client("index", "-c", "alice/zbase", "volatile=False", "custom_data=some text")
    server.client(
        "index", "-c", "alice/dev", "bases=alice/zbase,root/pypi", "acl_upload=alice,bob",
        "mirror_whitelist=Some_Name,*", "title=Dev index", "acl_toxresult_upload=:AUTHENTICATED:",
    )  # fmt: skip
    secret_url = NOWHERE.replace("://", "://us%40er:pass@")
    server.client(
        "index", "-c", "alice/cu", "type=mirror", f"mirror_url={secret_url}",
        "mirror_use_external_urls=True",
    )  # fmt: skip
    _login(server, "bob")
    server.client("index", "-c", "bob/prod", "bases=alice/dev", "volatile=False")


def _releases(server: DevpiServer) -> None:
    server.upload("alice/dev", *ODD, SIMPLE)  # by bob, who may
    alice = ("alice", PASSWORDS["alice"])
    forms = [
        docs_form("simple", "2.0", "simple.zip", _docs("of simple")),
        docs_form("onlydocs", "3.0", "onlydocs.zip", _docs("alone")),
        submit_form("registered", "0.1", summary="Only a name", classifiers=["A :: B", "C"]),
        odd_form(EGG, "eggy-1.0-py2.7.egg", "bdist_egg"),
        odd_form(wheel("eggy", "1.0", size=9), "eggy-1.0.win32.exe", "bdist_wininst"),
    ]
    for form in forms:
        server.post("alice/dev", *alice, form)
    server.tox_result("alice/dev", SIMPLE, TOX, alice)


def _pushes_and_overwrites(server: DevpiServer) -> None:
    _login(server, "bob")
    server.client("use", "alice/dev")
    server.client("push", "simple==2.0", "bob/prod")
    server.upload("alice/dev", wheel("eggy", "2.0"))
    server.upload("alice/dev", wheel("eggy", "2.0", size=10))


def _docs(text: str) -> bytes:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        archive.writestr("index.html", f"<h1>{text}</h1>")
    return data.getvalue()


def _age(path: Path) -> None:
    """Put into a dump what only old servers and their plugins wrote."""
    dump = json.loads(path.read_text())
    salt = "c29tZSBzYWx0IG9mIDE2Qg=="
    digest = hashlib.sha256(f"{salt}{PASSWORDS['carol']}".encode()).hexdigest()
    dump["users"]["carol"] = {"pwsalt": salt, "pwhash": digest, "username": "carol"}
    dump["users"]["ldap"] = {"username": "ldap", "email": "ldap@l.example"}
    del dump["indexes"]["bob/prod"]["indexconfig"]["mirror_whitelist_inheritance"]
    dump["indexes"]["alice/dev"]["indexconfig"]["constraints"] = "simple<9"
    path.write_text(json.dumps(dump))


def _json(url: str, path: str) -> Any:
    answer = http("GET", f"{url}/{path}", headers=JSON)
    assert answer.status == 200, (path, answer)
    return answer.json()["result"]


def _users(url: str) -> dict[str, Any]:
    users: dict[str, Any] = _json(url, "")
    return users


def _projects(url: str, index: str) -> dict[str, Any]:
    """All releases of an index by project, without what is ours alone or of the server."""
    names = _json(url, index)["projects"]
    found = {name: _json(url, f"{index}/{name}?ignore_bases=") for name in names}
    for versions in found.values():
        for version in versions.values():
            version.pop("+shadowing", None)
            version["+links"] = sorted(map(_link, version.pop("+links", ())))
    return found


def _link(link: dict[str, Any]) -> str:
    kept = {k: v for k, v in link.items() if k in ("rel", "hash_spec", "log")}
    for key in ("href", "for_href"):
        kept[key] = urlsplit(link.get(key) or "").path
    return json.dumps(kept, sort_keys=True)


def importing(dump: Path, node: Node, *more: str, password: str = "", code: int = 0) -> str:
    """Run ``pymirror import`` to its end; what it printed."""
    done = subprocess.run(
        [beside("pymirror"), "import", "--from-devpi", str(dump), "--url", node.url, *more],
        capture_output=True, text=True, timeout=120, check=False, cwd=CHECKOUT,
        env={**os.environ, "PYMIRROR_PASSWORD": password},
    )  # fmt: skip
    assert done.returncode == code, (done.stdout, done.stderr, node.log_text()[-3000:])
    return done.stdout + done.stderr


def counts(printed: str) -> dict[str, list[int]]:
    """[imported, already there, skipped] by kind."""
    rows = re.findall(r"^([a-z ]+?) +(\d+) +(\d+) +(\d+) *$", printed, re.MULTILINE)
    return {name: [int(number) for number in numbers] for name, *numbers in rows}


ALL = {
    "users": 5, "indexes": 5, "projects": 6, "releases": 8, "files": 8, "docs": 3, "tox results": 2,
}  # fmt: skip


@pytest.fixture(scope="module")
def moved(old: Old, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Node, Node, str]]:
    """A fresh primary after the import, a replica of it, and what the import printed."""
    with Cluster(tmp_path_factory.mktemp("moved")) as cluster:
        primary = cluster.primary("http://127.0.0.1:9/first-start/")
        printed = importing(old.dump, primary)
        yield primary, cluster.replica(primary), printed


def test_counts(moved: tuple[Node, Node, str]) -> None:
    """All that the dump has is imported; what has no effect or needs attention is said."""
    printed = moved[2]
    assert counts(printed) == {what: [number, 0, 0] for what, number in ALL.items()}
    assert "note: alice/dev: option constraints is kept" in printed
    assert "note: ldap: has no password in the dump" in printed


def test_nothing_is_lost(old: Old, moved: tuple[Node, Node, str]) -> None:
    """Users, index options, releases, links with their logs are what devpi-server showed."""
    primary = moved[0]
    users = _users(primary.url)
    assert users.keys() == old.users.keys() | {"carol", "ldap"}
    for name, user in old.users.items():
        before, after = user.pop("indexes"), users[name].pop("indexes")
        assert users[name] == user
        assert after.keys() == before.keys()
        for index, options in before.items():
            _same_options(options, after[index])
    for index in STAGES:
        assert _projects(primary.url, index) == old.projects[index], index


def _same_options(before: dict[str, Any], after: dict[str, Any]) -> None:
    url = before.get("mirror_url", "")
    if "@" in url:
        assert after.pop("mirror_url") == NOWHERE  # its password is a secret of the nodes now
        del before["mirror_url"]
    if "mirror_whitelist_inheritance" in before and before["bases"] == ["alice/dev"]:
        before["mirror_whitelist_inheritance"] = "union"  # it came from a server without the option
    assert {key: after.get(key) for key in before} == before


def test_files(old: Old, moved: tuple[Node, Node, str]) -> None:
    """Every file, doc zip and tox result is served byte for byte at its old path, by both nodes,
    and pages state the old upload times."""
    seen = 0
    for projects in old.projects.values():
        for link in _links(projects):
            for node in moved[:2]:
                answer = node.get(link["href"])
                assert answer.status == 200, (node.name, link)
                digest = hashlib.sha256(answer.body).hexdigest()
                assert link["hash_spec"] == f"sha256={digest}"
            seen += 1
    assert seen == sum(ALL[what] for what in ("files", "docs", "tox results"))
    page = moved[0].page("alice/dev", "odd-name-pkg").json()
    log = json.loads(next(iter(old.projects["alice/dev"]["odd-name-pkg"].values()))["+links"][0])
    year, month, day, *_ = log["log"][0]["when"]
    assert page["files"][0]["upload-time"].startswith(f"{year:04}-{month:02}-{day:02}T")
    check_same_roots(moved[:2])
    check_same_pages(moved[:2], "alice/dev", old.projects["alice/dev"])


def _links(projects: dict[str, Any]) -> Iterator[dict[str, str]]:
    for versions in projects.values():
        for version in versions.values():
            yield from map(json.loads, version["+links"])


@pytest.mark.parametrize("through", [0, 1], ids=["primary", "replica"])
@pytest.mark.parametrize("user", PASSWORDS)
def test_passwords(moved: tuple[Node, Node, str], user: str, through: int) -> None:
    """Everybody logs in with the password of before, and with no other, by any node."""
    node = moved[:2][through]
    assert _logs_in(node, user, PASSWORDS[user]).status == 200
    assert _logs_in(node, user, "another").status == 401
    assert _logs_in(node, user, "").status == 401


def test_no_password_means_no_login(moved: tuple[Node, Node, str]) -> None:
    """Whom a plugin checked, and who has no hash in the dump, does not get in without one."""
    for password in ("", "!", "None"):
        assert _logs_in(moved[0], "ldap", password).status == 401


def _logs_in(node: Node, user: str, password: str) -> Answer:
    body = json.dumps({"user": user, "password": password}).encode()
    return node.request("POST", "/+login", body=body, headers=JSON)


def test_old_hash_is_upgraded(old: Old, tmp_path: Path) -> None:
    """The first login with a sha256 hash of old replaces it by argon2id; the next one works."""
    with Cluster(tmp_path) as cluster:
        primary = cluster.primary()
        importing(old.dump, primary)
        before, serial = _hashes(primary), primary.status()["serial"]
        assert sum(text.startswith("devpi-sha256$") for text in before) == 1
        assert _logs_in(primary, "carol", "wrong").status == 401
        assert _hashes(primary) == before
        assert _logs_in(primary, "carol", PASSWORDS["carol"]).status == 200
        (new,) = _hashes(primary) - before
        assert new.startswith("$argon2id$")
        assert primary.status()["serial"] == serial + 1
        assert _logs_in(primary, "carol", PASSWORDS["carol"]).status == 200
        assert primary.status()["serial"] == serial + 1


def _hashes(node: Node) -> set[str]:
    return {path.read_text() for path in (node.state_dir / "secrets").iterdir()}


def test_dry_run_then_twice(old: Old, tmp_path: Path) -> None:
    """A dry run changes nothing and counts the same; a second run finds all there already."""
    with Cluster(tmp_path) as cluster:
        primary = cluster.primary("http://127.0.0.1:9/first-start/")
        serial = primary.status()["serial"]
        printed = importing(old.dump, primary, "--dry-run")
        assert counts(printed) == {what: [number, 0, 0] for what, number in ALL.items()}
        assert primary.status()["serial"] == serial
        importing(old.dump, primary)
        serial = primary.status()["serial"]
        refused = importing(old.dump, primary, password="", code=1)
        assert "401" in refused  # root has the password of the dump by now
        printed = importing(old.dump, primary, password=PASSWORDS["root"])
        assert counts(printed) == {what: [0, number, 0] for what, number in ALL.items()}
        assert primary.status()["serial"] == serial


def test_damage_is_reported(old: Old, tmp_path: Path) -> None:
    """A changed byte and a missing file are said by the dry run and the import; all else comes,
    and after the repair a second run brings the rest."""
    dump = tmp_path / "dump"
    shutil.copytree(old.dump, dump)
    changed, missing = (dump / f"alice/dev/odd-name-pkg/1.0/{one.filename}" for one in ODD[:2])
    changed.write_bytes(b"x" + changed.read_bytes()[1:])
    missing.unlink()
    with Cluster(tmp_path) as cluster:
        primary = cluster.primary()
        for options in (["--dry-run"], []):
            printed = importing(dump, primary, *options, code=1)
            assert counts(printed)["files"] == [ALL["files"] - 2, 0, 2]
            assert f"skipped: files: {changed.relative_to(dump)}: the file's bytes" in printed
            assert f"skipped: files: {missing.relative_to(dump)}: the file is missing" in printed
        for broken in (changed, missing):
            shutil.copy(old.dump / broken.relative_to(dump), broken)
        printed = importing(dump, primary, password=PASSWORDS["root"])
        assert counts(printed)["files"] == [2, ALL["files"] - 2, 0]


def test_only_root_imports(moved: tuple[Node, Node, str]) -> None:
    """Nobody but root may: the anonymous 401, others 403, and nothing changes."""
    serial = moved[0].status()["serial"]
    body = json.dumps({"things": [{"what": "user", "user": "eve"}]}).encode()
    for key, status in (({}, 401), (basic("alice", PASSWORDS["alice"]), 403)):
        for path in ("things", "bytes?sha256=" + "0" * 64):
            answer = moved[0].request("PUT", f"/+import/{path}", body=body, headers=key | JSON)
            assert answer.status == status, path
    assert moved[0].status()["serial"] == serial


def test_bytes_of_an_empty_file(moved: tuple[Node, Node, str]) -> None:
    """A file without bytes comes over too; nothing sent in place of something is refused."""
    for data, status in ((b"", 200), (b"x", 400)):
        path = f"/+import/bytes?sha256={hashlib.sha256(data).hexdigest()}"
        key = basic("root", PASSWORDS["root"])
        assert moved[0].request("PUT", path, headers=key | JSON).status == status


def test_installs(moved: tuple[Node, Node, str], tmp_path: Path) -> None:
    """pip installs from an imported index, through the replica."""
    run(
        beside("python"), "-m", "pip", "install", "--isolated", "--no-cache-dir",
        "--disable-pip-version-check", "--target", str(tmp_path), "--only-binary", ":all:",
        "--index-url", f"{moved[1].url}/bob/prod/+simple/", "simple",
    )  # fmt: skip
    assert (tmp_path / "simple.py").exists()


DOCUMENT = CHECKOUT / "docs" / "from-devpi.md"
_PYPIRC = re.compile(r"^```ini\n(.*?)^```", re.MULTILINE | re.DOTALL)


@define
class Reader:
    """Somebody who types a document's commands, in a folder, where `names` are other ones."""

    folder: Path
    names: dict[str, str]
    nodes: list[Node] = field(factory=list)

    def own(self, text: str) -> str:
        """A text with the reader's names in place of the document's."""
        for name, own in self.names.items():
            text = text.replace(name, own)
        return text

    def type(self, command: str) -> None:
        """Run a command to its end; a node is started and stays."""
        program, *arguments = shlex.split(self.own(command))
        if program == "twistd":
            self._start([beside(program), *arguments])
            return
        done = subprocess.run(
            [beside(program), *arguments], capture_output=True, text=True, timeout=120, check=False,
            cwd=self.folder, env={**os.environ, "HOME": str(self.folder)},
        )  # fmt: skip
        assert done.returncode == 0, (command, done.stdout[-3000:], done.stderr[-3000:])

    def _start(self, command: list[str]) -> None:
        port = int(command[command.index("--listen") + 1].split(":")[1])
        state = Path(command[command.index("--state-dir") + 1])
        name = f"node-{len(self.nodes)}"
        self.nodes.append(Node(name, command, self.folder / f"{name}.log", port, state))
        self.nodes[-1].start()


def test_document(old: Old, tmp_path: Path) -> None:
    """Every command of docs/from-devpi.md, typed in its order, works: there and back."""
    text = DOCUMENT.read_text()
    commands = re.findall(r"^    (\S.*)$", text, re.MULTILINE)
    assert len(commands) == 12
    ports = {port: str(free_port()) for port in ("3141", "3142")}
    reader = Reader(
        tmp_path,
        {
            "http://devpi.example:3141": old.server.url,
            "/srv/devpi ": f"{old.server.state} ",
            "/srv/": f"{tmp_path}/",
            "OLD-ROOT-PASSWORD": PASSWORDS["root"],
            "ALICE-PASSWORD": PASSWORDS["alice"],
            **{f"tcp:{port}": f"tcp:{new}:interface=127.0.0.1" for port, new in ports.items()},
            **{f"{host}:{port}": f"127.0.0.1:{new}" for port, new in ports.items()
               for host in ("127.0.0.1", "primary.example", "packages.example")},
        },
    )  # fmt: skip
    (ini,) = _PYPIRC.findall(text)
    (tmp_path / "old.pypirc").write_text(reader.own(ini))
    try:
        for command in commands[:-1]:
            reader.type(command)
        assert (tmp_path / "check" / SIMPLE.filename).read_bytes() == SIMPLE.data
        _back(reader, old.server, commands[-1])
    finally:
        for node in reader.nodes:
            node.kill()
        old.server.kill()


def _back(reader: Reader, server: DevpiServer, command: str) -> None:
    new = wheel("simple", "3.0")
    content_type, form = legacy_form(new)
    answer = reader.nodes[1].request(
        "POST", "/alice/dev/", body=form,
        headers={**basic("alice", PASSWORDS["alice"]), "Content-Type": content_type},
    )  # fmt: skip
    assert answer.status == 200, answer
    server.start()
    reader.type(command)
    assert http("GET", server.file_url("alice/dev", new)).body == new.data
