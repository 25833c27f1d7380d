"""The documents say what the code does: fields, options, kinds, states, constants, names."""

from __future__ import annotations

import configparser
import importlib
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.python import usage

import primary.tap
import replica.tap
from cluster import protocol
from cluster.auth.nodes import make_secret
from cluster.log.changes import Kind
from cluster.names import IndexName
from cluster.options import NodeOptions
from cluster.parts import Parts, open_parts
from cluster.web.request import NodeHandlers, NodeSite
from primary.compose import Primary
from replica.following import State
from replica.tap import Replica

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = [
    ROOT / name
    for name in (
        "README.md", "CONTRIBUTING.md", "NEWS.md", "docs/architecture.md", "docs/protocol.md",
        "docs/status.md", "docs/operations.md", "docs/access.md", "docs/from-devpi.md",
        "docs/push.md", "docs/uploads.md", "deploy/README.md",
    )
]  # fmt: skip
# Their keys are names of indexes and projects.
_BY_NAME = {"upstreams": "<index>", "upstreams.<index>.failing": "<project>"}
_WAIT_SECONDS = 20.0


def text(name: str) -> str:
    return (ROOT / name).read_text()


def first_column(document: str) -> set[str]:
    return set(re.findall(r"^\| `([^`]+)` \|", text(document), re.MULTILINE))


def fields(value: object, path: str = "") -> Iterator[str]:
    """The paths of all keys, as docs/status.md writes them."""
    if isinstance(value, list):
        for element in value:
            yield from fields(element, f"{path}[]")
    if not isinstance(value, Mapping):
        return
    for key, inner in value.items():
        below = f"{path}.{_BY_NAME.get(path, key)}".removeprefix(".")
        if path not in _BY_NAME:
            yield below
        if below != "result":  # devpi's fields are described in one row
            yield from fields(inner, below)


def listen(web: NodeHandlers) -> Any:
    site = NodeSite(web.app.resource(), web)  # type: ignore[attr-defined]
    tcp: Any = reactor
    return tcp.listenTCP(0, site, interface="127.0.0.1")


def status_of_everything(parts: Parts, web: Any) -> set[str]:
    """The fields of a node's status once each part of it has something to tell."""
    parts.health.failed(IndexName("root/pypi"), "demo", "no answer")
    parts.failures.failed("root/pypi", "demo-1.0.tar.gz", "cut off")
    return set(fields(web.status.document()))


def opened(options: NodeOptions, *arguments: str) -> Parts:
    """The parts of a node with these options, its threads running."""
    options.parseOptions(arguments)
    parts = open_parts(reactor, options.settings(), make_secret, durable=True)
    for pool in parts.pools.all():
        pool.start()
    return parts


async def emitted_fields(owner: Primary, folder: Path) -> set[str]:
    """What a primary and a replica that has polled it say of themselves."""
    owner_web = await owner.start()
    port = listen(owner_web)
    url = f"http://127.0.0.1:{port.getHost().port}"
    parts = opened(
        replica.tap.Options(), "--state-dir", str(folder), "--primary-url", url,
        "--secret-file", str(owner.parts.settings.secret_file),
    )  # fmt: skip
    follower = Replica(parts, [url])
    web = await follower.start()
    try:
        assert await parts.position.reached(1, _WAIT_SECONDS), follower.follower.following
        return status_of_everything(parts, web) | status_of_everything(owner.parts, owner_web)
    finally:
        await follower.stop()
        await parts.close()
        owner.stop_waiting()
        await port.stopListening()
        await port.factory.idle()


@pytest_twisted.ensureDeferred
async def test_status_fields(tmp_path: Path) -> None:
    """docs/status.md has exactly the fields that a primary and its replica emit."""
    options = primary.tap.Options()
    parts = opened(options, "--state-dir", str(tmp_path / "primary"), "--no-root-pypi")
    owner = Primary(parts, options.primary_settings())
    try:
        emitted = await emitted_fields(owner, tmp_path / "replica")
    finally:
        await owner.stop()
        await parts.close()
    documented = first_column("docs/status.md")
    inner = {path for path in emitted if any(p.startswith(f"{path}.") for p in documented)}
    assert documented - emitted == set()
    assert emitted - documented - inner == set()


@pytest.mark.parametrize("options", [primary.tap.Options, replica.tap.Options])
def test_options(options: type[usage.Options]) -> None:
    """Each option of both commands, and its environment variable, is in README's table."""
    readme = text("README.md")
    names = {name.rstrip("=") for name in options().longOpt} - {"help", "version"}
    assert "state-dir" in names
    for name in names:
        row = re.search(rf"^\| `--{name}[ `].*$", readme, re.MULTILINE)
        assert row, name
        if name != "no-root-pypi":
            assert f"`PYMIRROR_{name.upper().replace('-', '_')}`" in row[0]


def test_kinds() -> None:
    """The table of docs/architecture.md has a row for each kind of change."""
    assert {kind.value for kind in Kind} <= first_column("docs/architecture.md")


def test_states() -> None:
    """The table of docs/protocol.md has a row for each state of a follower."""
    assert {state.value for state in State} <= first_column("docs/protocol.md")


def test_headers_and_paths() -> None:
    """docs/protocol.md names each header and path of the protocol."""
    spoken = {
        value
        for name, value in vars(protocol).items()
        if name.endswith(("_HEADER", "_PATH")) or name == "TAIL_TYPE"
    }
    assert len(spoken) >= 10
    assert [word for word in sorted(spoken) if word not in text("docs/protocol.md")] == []


@pytest.mark.parametrize("document", ["docs/architecture.md", "docs/protocol.md"])
def test_constants(document: str) -> None:
    """Constants in the documents have the values that the code has."""
    rows = re.findall(r"^\| `((?:\w+\.)+)([A-Z_]+)` \| (\d+) \|", text(document), re.MULTILINE)
    assert rows
    for module, name, value in rows:
        assert getattr(importlib.import_module(module.rstrip(".")), name) == int(value), name


def test_dependencies() -> None:
    """docs/architecture.md lists what setup.cfg asks for, with its range."""
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg")
    wanted = {tuple(line.split()) for line in parser["options"]["install_requires"].split("\n")}
    rows = re.findall(r"^\| `([^`]+)` \| (>=\S+) \|", text("docs/architecture.md"), re.MULTILINE)
    assert set(rows) == wanted - {()}


def test_named_tests_exist() -> None:
    """Each test that README names as the proof of a claim is there."""
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", text("README.md"))
    assert len(named) >= 10
    for path, name in named:
        assert re.search(rf"def {name}\(", text(path)), name


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links(document: Path) -> None:
    """Links between the documents lead to files and headings that exist."""
    for target, anchor in re.findall(r"\]\(([^)#:]*)#?([^)]*)\)", document.read_text()):
        path = (document.parent / target).resolve() if target else document
        assert path.exists(), target
        titles = re.findall(r"^#+ (.+)$", path.read_text(), re.MULTILINE) if anchor else []
        anchors = [re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles]
        assert not anchor or anchor in anchors, anchor


def test_readme_is_short() -> None:
    """README stays something that is read."""
    assert len(text("README.md").splitlines()) < 200
