"""What the functional tests share: a small tree of packages, and sameness of nodes."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from itertools import product
from pathlib import Path

from tests.builders import Built, legacy_form, wheel
from tests.processes import Answer, Node, basic, eventually, http

FORMATS = (
    "text/html",
    "application/vnd.pypi.simple.v1+json",
    "application/vnd.pypi.simple.v1+html",
)
ROOT_PASSWORD = "a root password"

TREE = (
    wheel("app", "1.0", requires=["lib-a>=1.1", "Lib_B"], requires_python=">=3.8"),
    wheel("lib-a", "1.0"),
    wheel("lib-a", "1.1", requires=["lib-c"], size=300_000),
    wheel("lib-b", "2.0", requires=["lib.d<3"], files={"lib_b_data/x.txt": b"x" * 10_000}),
    wheel("lib-c", "1.0.post1", requires=["lib-e==0.1+local.1"]),
    wheel("lib-d", "2.9"),
    wheel("lib-d", "3.0"),
    wheel("lib-e", "0.1+local.1"),
    wheel("lib-e", "0.2", requires_python=">=99"),
)
INSTALLED = {
    "app": "1.0", "lib_a": "1.1", "lib_b": "2.0", "lib_c": "1.0.post1", "lib_d": "2.9",
    "lib_e": "0.1+local.1",
}  # fmt: skip
PROJECTS = ("app", "lib-a", "lib-b", "lib-c", "lib-d", "lib-e")


def check_installed(target: Path) -> None:
    """The whole tree, each in the right version, is in the folder."""
    for module, version in INSTALLED.items():
        assert f"VERSION = {version!r}" in (target / f"{module}.py").read_text()


def upload(node: Node, index: str, built: Built, password: str = ROOT_PASSWORD) -> Answer:
    """Upload as root by the legacy API, from one request."""
    content_type, body = legacy_form(built)
    headers = {**basic("root", password), "Content-Type": content_type}
    return node.request("POST", f"/{index}/", body=body, headers=headers)


def wait_visible(node: Node, index: str, built: Built, seconds: float) -> str:
    """Wait until a file is on its page with its sha256; the file's URL."""

    def listed() -> str | None:
        page = node.page(index, built.name)
        if page.status != 200:
            return None
        hashes = {f["filename"]: f["hashes"] for f in page.json()["files"]}
        sha256: str | None = hashes.get(built.filename, {}).get("sha256")
        return sha256

    digest = eventually(listed, seconds, f"{built.filename} on {node.name}")
    assert digest == built.sha256
    return node.file_urls(index, built.name)[built.filename]


def check_same_pages(nodes: Sequence[Node], index: str, projects: Iterable[str]) -> None:
    """Pages are byte-identical on all nodes, plain and compressed, ETags included.

    The empty project is the project list.
    """
    for project in [f"{project}/" if project else "" for project in projects]:
        for accept, coding in product(FORMATS, ("identity", "gzip")):
            path = f"/{index}/+simple/{project}"
            answers = [n.get(path, accept=accept, accept_encoding=coding) for n in nodes]
            assert [a.status for a in answers] == [200] * len(answers), path
            assert answers[0].headers["content-type"].startswith(accept)
            seen = {(a.headers["etag"], hashlib.sha256(a.body).hexdigest()) for a in answers}
            assert len(seen) == 1, (path, accept, coding, seen)


def check_same_files(nodes: Sequence[Node], index: str, built: Iterable[Built]) -> None:
    """Each node serves each file, and its metadata file where it is advertised, byte for byte."""
    for node in nodes:
        for one in built:
            files = node.page(index, one.name).json()["files"]
            listed = {file["filename"]: file for file in files}[one.filename]
            url = node.file_urls(index, one.name)[one.filename]
            assert http("GET", url).body == one.data, (node.name, one.filename)
            if listed.get("core-metadata"):
                assert http("GET", f"{url}.metadata").body == one.metadata


def check_same_roots(nodes: Sequence[Node], seconds: float = 10) -> None:
    """All nodes come to the same log within `seconds`: identity, serial and root."""
    first, *others = nodes

    def facts(node: Node) -> tuple[object, ...]:
        status = node.status()
        return status["log_identity"], status["serial"], status["root"]

    for other in others:

        def same(other: Node = other) -> bool:
            return facts(first) == facts(other)

        eventually(same, seconds, f"{other.name} equals {first.name}")


def no_temporary_files(*nodes: Node) -> None:
    """Wait until nothing of unfinished files lies in the nodes' folders: a client may hear of the
    end before a thread has removed the file.
    """
    for node in nodes:
        folder = node.state_dir / "files" / "tmp"
        eventually(lambda of=folder: not any(of.rglob("*")), 10, f"{folder} is empty")  # type: ignore[misc]
