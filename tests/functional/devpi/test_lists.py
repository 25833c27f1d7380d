"""devpi list, remove and refresh."""

from __future__ import annotations

import json
import re

import pytest

from tests.builders import sdist, wheel
from tests.functional.devpi.client import Client
from tests.functional.devpi.servers import (
    Account,
    Deployment,
    Server,
    new_account,
    new_index,
    unique,
)
from tests.processes import http

pytestmark = pytest.mark.functional


@pytest.fixture
def name(server: Server, account: Account, dev: str) -> str:
    """A project with six versions, the last of them as wheel and sdist."""
    project = unique("listed")
    for version in ("1.0", "1.1", "1.2", "1.10", "2.0", "2.1"):
        assert server.upload(dev, wheel(project, version), account.auth).status == 200
    assert server.upload(dev, sdist(project, "2.1"), account.auth).status == 200
    return project


def _files(output: str) -> list[str]:
    """The file names of the URLs in the output."""
    words = [line.strip() for line in output.splitlines() if line.strip().startswith("http")]
    # devpi-client adds a query of its own to the URLs that it shows with --ignore-bases.
    return [re.split(r"[#?]", word.rpartition("/")[2])[0] for word in words]


def _wheels(name: str, *versions: str) -> list[str]:
    return [f"{name}-{version}-py3-none-any.whl" for version in versions]


def _mirror(server: Server, deployment: Deployment, account: Account) -> str:
    return new_index(
        server, account, "mirror", type="mirror", mirror_cache_expiry=86400,
        mirror_url=f"{deployment.upstream.url}/json/simple/",
    )  # fmt: skip


def test_empty(devpi: Client) -> None:
    """A new index has no projects."""
    assert devpi("list").strip() == ""


def test_projects(devpi: Client, name: str) -> None:
    """Without an argument: the names of the projects."""
    assert devpi("list").split() == [name]


def test_projects_with_versions(devpi: Client, name: str) -> None:
    """-v: with the newest version; --all: with every version, in order."""
    assert devpi("list", "-v").split() == [f"{name}==2.1"]
    versions = ["1.0", "1.1", "1.2", "1.10", "2.0", "2.1"]
    assert devpi("list", "-v", "--all").split() == [f"{name}=={v}" for v in versions]


def test_project(devpi: Client, name: str) -> None:
    """A project: its files from new to old; older versions only with --all."""
    output = devpi("list", name)
    newest = [*_wheels(name, "2.1"), f"{name}-2.1.tar.gz"]
    assert _files(output) == [*newest, *_wheels(name, "2.0", "1.10")]
    assert "older versions not shown, use --all to see" in output
    every = devpi("list", "--all", name)
    assert _files(every) == [*newest, *_wheels(name, "2.0", "1.10", "1.2", "1.1", "1.0")]


def test_files_can_be_fetched(devpi: Client, name: str) -> None:
    """What is listed is there."""
    url = devpi("list", f"{name}==2.1").split()[0]
    assert http("GET", url.partition("#")[0]).body == wheel(name, "2.1").data


@pytest.mark.parametrize(
    ("spec", "versions"),
    [("==1.1", ["1.1"]), ("<1.2", ["1.1", "1.0"]), (">=1.2,<2", ["1.10", "1.2"]), (">3", [])],
)
def test_spec(devpi: Client, name: str, spec: str, versions: list[str]) -> None:
    """A requirement picks versions."""
    assert _files(devpi("list", name + spec)) == _wheels(name, *versions)


def test_unknown_project(devpi: Client) -> None:
    """A project that does not exist."""
    assert "404 Not Found: no project 'nothing'" in devpi.fails("list", "nothing")


def test_other_spelling(devpi: Client, server: Server, account: Account, dev: str) -> None:
    """Names are compared normalized, and shown as their owner writes them."""
    name = unique("Some.Name_")
    server.upload(dev, wheel(name, "1.0"), account.auth)
    spelling = name.lower().replace(".", "-").replace("_", "-")
    assert len(_files(devpi("list", spelling.upper()))) == 1
    assert f"{name}==1.0" in devpi("list", "-v")


def test_index_option(devpi: Client, server: Server, account: Account, name: str) -> None:
    """--index looks at another index."""
    new_index(server, account, "other")
    devpi("use", "other")
    assert devpi("list").strip() == ""
    assert devpi("list", "--index", account.dev).split() == [name]
    assert len(_files(devpi("list", "--index", "dev", f"{name}==2.1"))) == 2


def test_bases(devpi: Client, server: Server, account: Account, name: str, dev: str) -> None:
    """Releases of bases are shown, unless --ignore-bases; the names are the index's own."""
    top = new_index(server, account, "top", bases=[dev])
    server.upload(top, wheel(name, "3.0"), account.auth)
    devpi("use", "top")
    assert devpi("list").split() == [name]
    assert _files(devpi("list", name))[:2] == [*_wheels(name, "3.0", "2.1")]
    assert _files(devpi("list", "--ignore-bases", name)) == _wheels(name, "3.0")
    assert devpi("list", "-v", "--ignore-bases").split() == [f"{name}==3.0"]


def test_shadowed(devpi: Client, server: Server, account: Account, name: str, dev: str) -> None:
    """A version that two indexes have is shown from both, the nearer first."""
    top = new_index(server, account, "top", bases=[dev])
    server.upload(top, wheel(name, "2.0"), account.auth)
    devpi("use", "top")
    lines = [line for line in devpi("list", f"{name}==2.0").splitlines() if "+f/" in line]
    assert [f"/{index}/" in line for index, line in zip((top, dev), lines, strict=True)] == [
        True,
        True,
    ]


def test_mirror(devpi: Client, server: Server, account: Account, deployment: Deployment) -> None:
    """A mirror lists what its upstream has, and links to files here."""
    name = unique("mirrored")
    deployment.upstream.add("json", wheel(name, "1.0"), wheel(name, "1.1"))
    mirror = _mirror(server, deployment, account)
    devpi("use", "mirror")
    assert name in devpi("list").split()
    output = devpi("list", name)
    assert _files(output) == _wheels(name, "1.1", "1.0")
    assert f"{server.url}/{mirror}/+f/" in output
    url = output.split()[0].partition("#")[0]
    assert http("GET", url).body == wheel(name, "1.1").data


def test_mirror_made_again(
    server: Server, account: Account, deployment: Deployment, ours: None
) -> None:
    """A mirror that is deleted and made again has what its upstream has."""
    name = unique("again")
    deployment.upstream.add("json", wheel(name, "1.0"))
    for _ in range(2):
        mirror = _mirror(server, deployment, account)
        assert set(server.links(mirror, name)) == set(_wheels(name, "1.0"))
        server.made("DELETE", f"/{mirror}", None, account.auth)


def test_toxresults(devpi: Client, server: Server, account: Account, dev: str) -> None:
    """-t shows the results of tests, -f the output of those that failed."""
    name = unique("tested")
    server.upload(dev, sdist(name, "1.0"), account.auth)
    url = devpi("list", name).split()[0].partition("#")[0].removeprefix(server.url)
    for environment, retcode in (("good", 0), ("bad", 1)):
        result = server.made("POST", url, _tox_result(name, environment, retcode))
        assert result.partition(".toxresult-")[1]
    output = devpi("list", "-t", name)
    assert "host-a     linux   good       3.11.7 tests passed" in output
    assert "host-a     linux   bad        3.11.7 tests failed" in output
    assert "FAIL: run the tests" not in output
    failures = devpi("list", "-f", name)
    assert "FAIL: run the tests" in failures
    assert "what went wrong" in failures


def _tox_result(name: str, environment: str, retcode: int) -> dict[str, object]:
    def commands(code: int) -> list[dict[str, object]]:
        said = "what went wrong" if code else "fine"
        return [{"command": ["run", "the", "tests"], "output": said, "retcode": code}]

    facts = {
        "python": {"version": "3.11.7 (main)", "executable": "python"},
        "setup": commands(0), "test": commands(retcode), "installed_packages": [],
    }  # fmt: skip
    return {
        "reportversion": "1", "toxversion": "4", "platform": "linux", "host": "host-a",
        "installpkg": {"basename": f"{name}-1.0.tar.gz", "sha256": "00"},
        "testenvs": {environment: facts},
    }  # fmt: skip


def test_remove_project(devpi: Client, server: Server, dev: str, name: str) -> None:
    """A name removes the project with all its files, after a question."""
    url = server.links(dev, name)[_wheels(name, "1.0")[0]]["href"]
    assert "not deleting anything" in devpi("remove", name, stdin="no\n")
    output = devpi("remove", "-y", name)
    assert f"version: 1.10\n  - {server.url}" in output
    assert devpi("list").strip() == ""
    assert http("GET", url).status == 410


def test_remove_version(devpi: Client, server: Server, dev: str, name: str) -> None:
    """name==version removes one version with its files."""
    assert f"deleting release 1.1 of {name}" in devpi("remove", "-y", f"{name}==1.1")
    assert set(server.result(f"/{dev}/{name}")) == {"1.0", "1.2", "1.10", "2.0", "2.1"}


def test_remove_range(devpi: Client, server: Server, dev: str, name: str) -> None:
    """A requirement removes every version that it admits."""
    devpi("remove", "-y", f"{name}<2")
    assert set(server.result(f"/{dev}/{name}")) == {"2.0", "2.1"}


def test_remove_last_version(devpi: Client, name: str) -> None:
    """With its last version a project goes."""
    devpi("remove", "-y", f"{name}>=0")
    assert devpi("list").strip() == ""


def test_remove_file(devpi: Client, server: Server, dev: str, name: str) -> None:
    """A URL removes one file; the last file of a version takes the version along."""
    for filename in (f"{name}-2.1.tar.gz", *_wheels(name, "2.1")):
        assert "2.1" in server.result(f"/{dev}/{name}")
        href = server.links(dev, name)[filename]["href"].partition("#")[0]
        devpi("remove", "-y", href)
        assert http("GET", href).status == 410
    assert "2.1" not in server.result(f"/{dev}/{name}")


def test_remove_nothing(devpi: Client, name: str) -> None:
    """What is not there cannot be removed."""
    assert "No releases or distributions found" in devpi.fails("remove", "-y", f"{name}==9")
    assert "404 Not Found: no project 'nothing'" in devpi.fails("remove", "-y", "nothing")


def test_remove_from_non_volatile(
    devpi: Client, server: Server, account: Account, name: str
) -> None:
    """A non-volatile index keeps all, except from --force: file, version, project."""
    devpi("index", "volatile=False")
    links = server.links(account.dev, name)
    href = links[f"{name}-2.1.tar.gz"]["href"].partition("#")[0]
    for what in (href, f"{name}==1.0", name):
        output = devpi.fails("remove", "-y", what)
        assert "403 Forbidden" in output
        assert "volatile" in output
    devpi("remove", "-y", "--force", href)
    devpi("remove", "-y", "-f", f"{name}==1.0")
    assert set(server.links(account.dev, name)) == {
        *_wheels(name, "1.1", "1.2", "1.10", "2.0", "2.1")
    }
    devpi("remove", "-y", "--force", name)
    assert devpi("list").strip() == ""


def test_remove_index_option(devpi: Client, server: Server, account: Account, name: str) -> None:
    """--index removes from another index, and only what is its own."""
    top = new_index(server, account, "top", bases=[account.dev])
    devpi.fails("remove", "-y", "--index", top, name)
    devpi("use", "top")
    devpi("remove", "-y", "--index", account.dev, f"{name}==1.0")
    assert "1.0" not in server.result(f"/{account.dev}/{name}")


def test_remove_not_allowed(devpi: Client, name: str, server: Server) -> None:
    """Who may not upload may not remove, unless it is root."""
    devpi.login(new_account(server))
    assert "403 Forbidden" in devpi.fails("remove", "-y", f"{name}==1.0")
    devpi("login", "root", "--password=")
    devpi("remove", "-y", f"{name}==1.0")


def test_refresh(devpi: Client, server: Server, account: Account, deployment: Deployment) -> None:
    """`devpi refresh` sees a new release upstream before its time, through bases too."""
    name = unique("fresh")
    deployment.upstream.add("json", wheel(name, "1.0"))
    mirror = _mirror(server, deployment, account)
    devpi("index", f"bases={mirror}")
    assert _files(devpi("list", name)) == _wheels(name, "1.0")
    for version, options in (("1.1", ["--index", mirror]), ("1.2", [])):
        deployment.upstream.add("json", wheel(name, version))
        assert _wheels(name, version)[0] not in _files(devpi("list", name))
        assert devpi("refresh", *options, name).strip() == f"Refreshed {name}"
        assert _wheels(name, version)[0] in _files(devpi("list", name))


def test_refresh_unknown(
    devpi: Client, server: Server, account: Account, deployment: Deployment
) -> None:
    """What upstream does not have cannot be refreshed, and the other names are."""
    _mirror(server, deployment, account)
    name = unique("fresh")
    deployment.upstream.add("json", wheel(name, "1.0"))
    output = devpi("refresh", "--index", "mirror", unique("nothing"), name)
    assert "Couldn't refresh nothing" in output
    assert f"Couldn't refresh {name}" not in output


def test_json_is_what_list_reads(server: Server, dev: str, name: str) -> None:
    """The document behind `devpi list` names the file of each link in both of its forms."""
    answer = server.call("GET", f"/{dev}/{name}")
    assert answer.headers["content-type"] == "application/json"
    for version in json.loads(answer.body)["result"].values():
        for link in version["+links"]:
            assert link["hash_spec"].removeprefix("sha256=") == link["hashes"]["sha256"]
