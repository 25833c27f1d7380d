"""Pushes with devpi-client to servers elsewhere, and of mirrored releases, through both nodes."""

from __future__ import annotations

import json
import sys
import urllib.parse
from collections.abc import Iterator
from pathlib import Path

import pytest
from attrs import frozen

from tests.builders import Built, sdist, wheel
from tests.functional.devpi.client import Client, new_client
from tests.functional.devpi.servers import (
    ROOT,
    Account,
    Server,
    new_account,
    new_index,
    unique,
)
from tests.functional.devpi.sources import doc_zip
from tests.processes import (
    Answer,
    Cluster,
    Node,
    ServerProcess,
    Upstream,
    eventually,
    free_port,
    http,
)

pytestmark = pytest.mark.functional

MIB = 1 << 20


@frozen
class Places:
    """Where releases come from, and where they go: another pymirror, and a pypiserver."""

    nodes: dict[str, Node]
    upstream: Upstream
    elsewhere: Server
    pypiserver: str
    packages: Path


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Places]:
    """All servers of this module."""
    folder = tmp_path_factory.mktemp("push")
    with Cluster(folder) as cluster:
        upstream = cluster.upstream()
        primary = cluster.primary()
        nodes = {"primary": primary, "replica": cluster.replica(primary)}
        other = cluster.node("elsewhere", "pymirror-primary", ["--no-root-pypi"]).start()
        packages = folder / "packages"
        packages.mkdir()
        process, url = _pypiserver(folder, packages)
        try:
            yield Places(nodes, upstream, Server("elsewhere", other.url), url, packages)
        finally:
            process.kill()


def _pypiserver(folder: Path, packages: Path) -> tuple[ServerProcess, str]:
    port = free_port()
    program = str(Path(sys.executable).with_name("pypi-server"))
    command = [
        program, "run", "--interface", "127.0.0.1", "--port", str(port), "--passwords", ".",
        "--authenticate", ".", "--backend", "simple-dir", str(packages),
    ]  # fmt: skip
    process = ServerProcess("pypiserver", command, folder / "pypiserver.log")
    process.launch()
    url = f"http://127.0.0.1:{port}"
    eventually(lambda: _answers(process, url), 60.0, "pypiserver answers")
    return process, url


def _answers(process: ServerProcess, url: str) -> bool:
    assert process.running, process.log_text()
    try:
        return http("GET", f"{url}/simple/").status == 200
    except OSError:
        return False


@pytest.fixture(params=["primary", "replica"])
def server(request: pytest.FixtureRequest, places: Places) -> Server:
    """The node that a case talks to."""
    return Server(request.param, places.nodes[request.param].url)


@pytest.fixture
def account(server: Server) -> Account:
    """A new user."""
    return new_account(server)


@pytest.fixture
def dev(server: Server, account: Account) -> str:
    """A new index of the new user."""
    return new_index(server, account)


@pytest.fixture
def devpi(server: Server, account: Account, dev: str, tmp_path: Path) -> Client:
    """A client that uses the new index, logged in."""
    client = new_client(server, tmp_path / "devpi")
    client.use(dev)
    client.login(account)
    return client


@pytest.fixture
def built(server: Server, account: Account, dev: str) -> list[Built]:
    """A release with documentation on the new index."""
    name = unique("pushed")
    files = [wheel(name, "1.0", requires=["other>1"], requires_python=">=3.8"), sdist(name, "1.0")]
    for one in files:
        fields = {"requires_dist": ["other>1"]}
        assert server.upload(dev, one, account.auth, **fields).status == 200
    docs = server.upload_docs(dev, name, "1.0", doc_zip(name), account.auth)
    assert docs.status == 200
    return files


def _mirror(server: Server, account: Account, places: Places, *files: Built) -> str:
    places.upstream.add("json", *files)
    url = f"{places.upstream.url}/json/simple/"
    return new_index(server, account, "mirror", type="mirror", mirror_url=url)


def _pypirc(devpi: Client, url: str, user: str = "root", password: str = "") -> Path:
    path = devpi.home / "pypirc"
    path.write_text(
        f"[distutils]\nindex-servers = there\n[there]\nrepository = {url}\n"
        f"username = {user}\npassword = {password}\n"
    )
    return path


def _target(places: Places) -> str:
    index = f"root/{unique('target')}"
    places.elsewhere.made("PUT", f"/{index}", {"type": "stage"}, ROOT)
    return index


def test_second_pymirror(
    devpi: Client, server: Server, dev: str, places: Places, built: list[Built]
) -> None:
    """Files, documentation and metadata are on the other pymirror as they were here."""
    target = _target(places)
    pypirc = _pypirc(devpi, f"{places.elsewhere.url}/{target}/")
    name = built[0].name
    output = devpi("push", "--pypirc", pypirc, f"{name}==1.0", "pypi:there")
    assert output.count("200 upload") == 2
    assert f"200 docfile {name}" in output
    there = places.elsewhere.links(target, name)
    assert {file: link["hashes"]["sha256"] for file, link in there.items()} == {
        one.filename: one.sha256 for one in built
    }
    (docs,) = places.elsewhere.links(target, name, "doczip").values()
    assert http("GET", docs["href"]).body == doc_zip(name)
    ours, theirs = (
        {k: v for k, v in where.result(f"/{index}/{name}/1.0").items() if not k.startswith("+")}
        for where, index in ((server, dev), (places.elsewhere, target))
    )
    assert ours == theirs
    assert ours["requires_dist"] == ["other>1"]


def test_pypiserver(devpi: Client, places: Places, built: list[Built]) -> None:
    """A pypiserver takes the files; what it has already it refuses, and its word is shown."""
    pypirc = _pypirc(devpi, places.pypiserver)
    name = built[0].name
    push = ["push", "--pypirc", pypirc, "--no-docs", f"{name}==1.0", "pypi:there"]
    assert devpi(*push).count("200 upload") == 2
    for one in built:
        assert (places.packages / one.filename).read_bytes() == one.data
    again = devpi.fails(*push)
    assert again.count("409 upload") == 2
    (places.packages / built[1].filename).unlink()
    half = devpi.fails(*push)
    assert (half.count("409 upload"), half.count("200 upload")) == (1, 1)


def test_nobody_there(devpi: Client, places: Places, built: list[Built]) -> None:
    """A server that is not there is a failure with its reason, and without the password."""
    pypirc = _pypirc(devpi, f"http://127.0.0.1:{free_port()}/", "ann", "open-sesame")
    output = devpi.fails("push", "--pypirc", pypirc, f"{built[0].name}==1.0", "pypi:there")
    assert "-1 exception on release upload:" in output
    assert "ConnectionRefusedError" in output
    assert "open-sesame" not in output
    assert all("open-sesame" not in node.log_text() for node in places.nodes.values())


def test_mirror_to_elsewhere(
    devpi: Client, server: Server, account: Account, places: Places
) -> None:
    """A mirror's owner pushes its releases elsewhere; others may not make the node do that."""
    name, target = unique("mirrored"), _target(places)
    mirror = _mirror(server, account, places, wheel(name, "1.0"))
    order = {
        "name": name, "version": "1.0", "posturl": f"{places.elsewhere.url}/{target}/",
        "username": "root", "password": "",
    }  # fmt: skip
    assert server.call("PUSH", f"/{mirror}", order).status == 401
    assert server.call("PUSH", f"/{mirror}", order, new_account(server).auth).status == 403
    answer = server.call("PUSH", f"/{mirror}", order, account.auth)
    assert (answer.status, [line[:2] for line in answer.json()["result"]]) == (
        200, [[200, "upload"]],
    )  # fmt: skip
    assert set(places.elsewhere.links(target, name)) == {wheel(name, "1.0").filename}


def test_mirrored_release(
    devpi: Client, server: Server, account: Account, dev: str, places: Places
) -> None:
    """What came from a mirror is an ordinary release: metadata, PEP 658, facts of upstream."""
    name = unique("mirrored")
    files = [wheel(name, "1.0", requires=["other"], requires_python=">=3.8"), sdist(name, "1.0")]
    places.upstream.add("json", *files)
    places.upstream.yank("json", files[1], "broken build")
    _mirror(server, account, places)
    devpi("use", "mirror")
    output = devpi("push", f"{name}==1.0", dev)
    assert output.count("200 store_releasefile") == 2
    version = server.result(f"/{dev}/{name}/1.0")
    assert version["summary"] == f"A test package called {name}"
    assert version["requires_dist"] == ["other"]
    page = _page(server, dev, name).json()
    by_name = {file["filename"]: file for file in page["files"]}
    whl, tgz = (by_name[one.filename] for one in files)
    assert (whl["requires-python"], tgz["yanked"]) == (">=3.8", "broken build")
    url = urllib.parse.urljoin(f"{server.url}/{dev}/+simple/{name}/", whl["url"])
    assert http("GET", url).body == files[0].data
    assert http("GET", f"{url}.metadata").body == files[0].metadata
    upstream = _page(server, f"{account.name}/mirror", name).json()["files"]
    assert {f["filename"]: f.get("upload-time") for f in upstream} == {
        f["filename"]: f.get("upload-time") for f in page["files"]
    }


def _page(server: Server, index: str, name: str) -> Answer:
    accept = "application/vnd.pypi.simple.v1+json"
    return server.call("GET", f"/{index}/+simple/{name}/", Accept=accept)


def test_broken_upstream_file(
    devpi: Client, server: Server, account: Account, dev: str, places: Places
) -> None:
    """A file that is not what its digest says stops the push: nothing of it is to be seen."""
    name = unique("mirrored")
    good, bad = wheel(name, "1.0"), sdist(name, "1.0")
    mirror = _mirror(server, account, places, good, bad)
    assert _page(server, mirror, name).status == 200
    folder = places.upstream.root / "json" / name
    (folder / bad.filename).write_bytes(bad.data[:-1] + b"!")
    devpi("use", "mirror")
    assert "502" in devpi.fails("push", f"{name}==1.0", dev)
    assert _page(server, dev, name).status == 404


def test_post(server: Server, account: Account, dev: str, built: list[Built]) -> None:
    """A POST of JSON is a push as well; its effect is read at the same node at once."""
    prod = new_index(server, account, "prod")
    order = {"name": built[0].name, "version": "1.0", "targetindex": prod, "no_docs": True}
    answer = server.call("POST", f"/{dev}/", order, account.auth)
    assert (answer.status, answer.json()["type"]) == (200, "actionlog")
    assert answer.headers["content-type"] == "application/json"
    assert set(server.links(prod, built[0].name)) == {one.filename for one in built}
    assert int(answer.headers["x-devpi-serial"]) > 0


def test_errors(server: Server, account: Account, dev: str, built: list[Built]) -> None:
    """Every refusal is JSON with a message that devpi-client shows."""
    prod = new_index(server, account, "prod", volatile=False)
    other = wheel(built[0].name, "1.0", size=9)
    assert server.upload(prod, other, account.auth).status == 200
    good = {"name": built[0].name, "version": "1.0", "targetindex": prod}
    hidden = new_index(server, new_account(server))
    for status, change in (
        (400, {"version": "9"}),
        (400, {"only_docs": True, "no_docs": True}),
        (400, {"extra": 1}),
        (400, {"targetindex": "prod"}),
        (404, {"targetindex": f"{account.name}/none"}),
        (401, {"targetindex": hidden}),
        (409, {}),
    ):
        answer = server.call("PUSH", f"/{dev}", {**good, **change}, account.auth)
        assert answer.status == status, (change, answer)
        assert answer.headers["content-type"] == "application/json"
        assert answer.json()["message"]
    answer = server.call("PUSH", f"/{dev}", b"{", account.auth)
    assert (answer.status, answer.json()["message"]) == (400, "Bad request: could not decode json")


def test_memory(server: Server, account: Account, dev: str, places: Places) -> None:
    """A file of 48 MB goes elsewhere through a node that does not grow by much of it."""
    big = sdist(unique("big"), "1.0", size=48 * MIB)
    assert server.upload(dev, big, account.auth).status == 200
    order = {
        "name": big.name, "version": "1.0", "username": "root", "password": "",
        "posturl": f"{places.elsewhere.url}/{_target(places)}/",
    }  # fmt: skip
    nodes = list(places.nodes.values())
    before = [_forget_peak(node) for node in nodes]
    answer = http(
        "PUSH", f"{server.url}/{dev}", body=json.dumps(order).encode(),
        headers={**account.auth, "Accept": "application/json"}, timeout=120,
    )  # fmt: skip
    assert answer.status == 200, answer
    growth = [_peak(node) - was for node, was in zip(nodes, before, strict=True)]
    assert max(growth) < 24 * MIB, growth


def _forget_peak(node: Node) -> int:
    """Start to measure anew; the resident memory now, in bytes."""
    Path(f"/proc/{node.pid}/clear_refs").write_text("5")
    return node.rss_bytes()


def _peak(node: Node) -> int:
    """The most resident memory since then, in bytes."""
    status = Path(f"/proc/{node.pid}/status").read_text()
    (line,) = (line for line in status.splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024
