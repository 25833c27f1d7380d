"""devpi push: to an index of the same server, from a mirror, to a server elsewhere."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.builders import sdist, wheel
from tests.functional.devpi.client import Client
from tests.functional.devpi.servers import (
    ROOT,
    Account,
    Deployment,
    Server,
    new_account,
    new_index,
    unique,
)
from tests.functional.devpi.sources import doc_zip
from tests.processes import http

pytestmark = pytest.mark.functional


@pytest.fixture
def prod(server: Server, account: Account) -> str:
    """An index to push to, non-volatile."""
    return new_index(server, account, "prod", volatile=False)


@pytest.fixture
def name(server: Server, account: Account, dev: str) -> str:
    """A project with a wheel, an sdist, documentation and a test result."""
    project = unique("pushed")
    built = sdist(project, "1.0")
    for one in (wheel(project, "1.0"), built):
        assert server.upload(dev, one, account.auth).status == 200
    docs = server.upload_docs(dev, project, "1.0", doc_zip(project), account.auth)
    assert docs.status == 200
    path = server.links(dev, project)[built.filename]["href"].removeprefix(server.url)
    server.made("POST", path.partition("#")[0], {"testenvs": {}})
    return project


def _files(name: str) -> set[str]:
    return {f"{name}-1.0-py3-none-any.whl", f"{name}-1.0.tar.gz"}


def test_push(devpi: Client, server: Server, dev: str, prod: str, name: str) -> None:
    """A release goes with all its files, docs and test results, byte for byte."""
    output = devpi("push", f"{name}==1.0", prod)
    assert f"200 register {name} 1.0 -> {prod}" in output
    assert output.count("200 store_releasefile") == 2
    assert output.count("200 store_doczip") == 1
    assert output.count("200 store_toxresult") == 1
    for rel, files in (("releasefile", _files(name)), ("doczip", {f"{name}-1.0.doc.zip"})):
        pushed, kept = server.links(prod, name, rel), server.links(dev, name, rel)
        assert set(pushed) == set(kept) == files
        for filename in files:
            assert http("GET", pushed[filename]["href"]).body == (
                http("GET", kept[filename]["href"]).body
            )
    (toxresult,) = server.links(prod, name, "toxresult").values()
    assert f"/{prod}/" in toxresult["for_href"]


def test_log(devpi: Client, server: Server, account: Account, dev: str, name: str) -> None:
    """The log of a pushed file tells where it came from."""
    new_index(server, account, "prod")
    devpi("push", f"{name}==1.0", f"{account.name}/prod")
    for link in server.links(f"{account.name}/prod", name).values():
        upload, push = link["log"]
        assert (upload["what"], upload["dst"]) == ("upload", dev)
        assert (push["what"], push["who"]) == ("push", account.name)
        assert (push["src"], push["dst"]) == (dev, f"{account.name}/prod")


@pytest.mark.parametrize(("option", "files"), [("--no-docs", 2), ("--only-docs", 0)])
def test_parts(
    devpi: Client, server: Server, prod: str, name: str, option: str, files: int
) -> None:
    """Files without documentation, or the other way round."""
    devpi("push", option, f"{name}==1.0", prod)
    assert len(server.links(prod, name)) == files
    assert len(server.links(prod, name, "doczip")) == (files == 0)


def test_index_option(devpi: Client, server: Server, dev: str, prod: str, name: str) -> None:
    """--index pushes from another index than the current."""
    devpi("use", "prod")
    devpi("push", "--index", dev, f"{name}==1.0", prod)
    assert set(server.links(prod, name)) == _files(name)


def test_old_form(devpi: Client, server: Server, prod: str, name: str) -> None:
    """name-version is understood still."""
    assert "deprecated" in devpi("push", f"{name}-1.0", prod)
    assert set(server.links(prod, name)) == _files(name)


def test_again(devpi: Client, server: Server, prod: str, name: str, deployment: Deployment) -> None:
    """A release may be pushed again, but no other file of a name that a non-volatile index has."""
    devpi("push", f"{name}==1.0", prod)
    before = {f: link["hash_spec"] for f, link in server.links(prod, name).items()}
    if not deployment.is_peer:  # which refuses the same files, too
        devpi("push", f"{name}==1.0", prod)
    changed = wheel(name, "1.0", size=10)
    devpi("upload", _written(devpi, changed.filename, changed.data))
    output = devpi.fails("push", f"{name}==1.0", prod)
    assert f"409 Conflict: {changed.filename} already exists in non-volatile index" in output
    assert {f: link["hash_spec"] for f, link in server.links(prod, name).items()} == before


def test_over_a_volatile_one(
    devpi: Client, server: Server, account: Account, dev: str, name: str
) -> None:
    """On a volatile index a pushed file replaces what was there."""
    other = new_index(server, account, "other")
    server.upload(other, wheel(name, "1.0", size=10), account.auth)
    devpi("push", f"{name}==1.0", other)
    filename = wheel(name, "1.0").filename
    pushed, kept = server.links(other, name), server.links(dev, name)
    assert pushed[filename]["hash_spec"] == kept[filename]["hash_spec"]
    assert pushed[filename]["log"][0]["what"] == "overwrite"


def test_refused(devpi: Client, server: Server, account: Account, name: str) -> None:
    """No such version, target or right."""
    theirs = new_index(server, new_account(server))
    assert "400" in devpi.fails("push", f"{name}==9", account.dev)
    assert "404" in devpi.fails("push", f"{name}==1.0", f"{account.name}/nothing")
    assert "401" in devpi.fails("push", f"{name}==1.0", theirs)


def test_not_through_bases(
    devpi: Client, server: Server, account: Account, dev: str, prod: str, name: str
) -> None:
    """Only an index's own releases are pushed."""
    top = new_index(server, account, "top", bases=[dev])
    assert "400" in devpi.fails("push", "--index", top, f"{name}==1.0", prod)


def test_from_a_mirror(
    devpi: Client, server: Server, account: Account, deployment: Deployment, prod: str
) -> None:
    """A release of a mirror is fetched and becomes an ordinary release."""
    name = unique("mirrored")
    built = wheel(name, "1.0")
    deployment.upstream.add("json", built)
    new_index(
        server, account, "mirror", type="mirror",
        mirror_url=f"{deployment.upstream.url}/json/simple/",
    )  # fmt: skip
    devpi("use", "mirror")
    devpi("push", f"{name}==1.0", prod)
    link = server.links(prod, name)[built.filename]
    assert http("GET", link["href"]).body == built.data
    assert link["log"][-1]["what"] == "push"


def test_elsewhere(devpi: Client, deployment: Deployment, name: str) -> None:
    """pypi:REPO uploads to the index that the pypirc file names."""
    target, pypirc = _elsewhere(deployment, devpi.home / "some-pypirc")
    output = devpi("push", "--pypirc", pypirc, "--no-docs", f"{name}==1.0", "pypi:there")
    assert output.count("200 upload") == 2
    assert _names_there(deployment.elsewhere, target, name) == _files(name)


def test_elsewhere_default_file(devpi: Client, deployment: Deployment, name: str) -> None:
    """Without --pypirc it is ~/.pypirc; --register-project announces the release first."""
    target, _ = _elsewhere(deployment, devpi.home / ".pypirc")
    output = devpi("push", "--register-project", "--no-docs", f"{name}==1.0", "pypi:there")
    assert "200 register" in output
    assert _names_there(deployment.elsewhere, target, name) == _files(name)


def test_elsewhere_refused(devpi: Client, deployment: Deployment, name: str) -> None:
    """What the server elsewhere refuses is reported as it says it."""
    target, pypirc = _elsewhere(deployment, devpi.home / "some-pypirc", password="wrong")
    output = devpi.fails("push", "--pypirc", pypirc, f"{name}==1.0", "pypi:there")
    assert "401 upload" in output or "403 upload" in output
    assert "Failure during upload" in output
    page = deployment.elsewhere.call("GET", f"/{target}/+simple/{name}/")
    assert page.status == 404


def _elsewhere(deployment: Deployment, path: Path, password: str = "") -> tuple[str, Path]:
    """A new index on the server elsewhere, and a pypirc file that names it."""
    target = f"root/{unique('target')}"
    deployment.elsewhere.made("PUT", f"/{target}", {"type": "stage"}, ROOT)
    repository = f"{deployment.elsewhere.url}/{target}/"
    path.write_text(
        f"[distutils]\nindex-servers = there\n[there]\nrepository = {repository}\n"
        f"username = root\npassword = {password}\n"
    )
    return target, path


def _names_there(server: Server, index: str, name: str) -> set[str]:
    accept = "application/vnd.pypi.simple.v1+json"
    page = server.call("GET", f"/{index}/+simple/{name}/", Accept=accept)
    return {file["filename"] for file in page.json()["files"]}


def _written(client: Client, filename: str, data: bytes) -> Path:
    path = client.home / filename
    path.write_bytes(data)
    return path
