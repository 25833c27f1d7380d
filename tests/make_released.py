"""`python -m tests.make_released`: what this version writes to disk, kept for the versions to come.

Writes `tests/released/<version>.tar.xz`: the state folders of a stopped cluster, its secret, and
`facts.json`, which says what its nodes served. `primary` has cut its log, `whole` has all of it,
`part` began with a snapshot. `tests/functional/test_released.py` opens them.
"""

from __future__ import annotations

import json
import tarfile
import tempfile
from pathlib import Path
from typing import Any

from cluster.version import __version__
from tests.builders import sdist, wheel
from tests.functional.helpers import ROOT_PASSWORD, check_same_roots, upload
from tests.processes import Cluster, Node, basic, eventually

RELEASED = Path(__file__).resolve().parent / "released"
CUT = ("--snapshot-every", "4", "--keep-entries", "0", "--keep-days", "0")
NAMES = ("primary", "whole", "part")
USER, USER_PASSWORD = "ann", "the secret of ann"
HOSTED, MIRROR = "root/dev", "root/pypi"
PROJECTS = {HOSTED: ("app", "lib-a", "late-7"), MIRROR: ("mirrored",)}
_LEFT_OUT = ("lock", "scratch", "lists")


def fill(primary: Node) -> None:
    """A change of most kinds."""
    login = {**basic("root", ROOT_PASSWORD), "Content-Type": "application/json"}

    def ask(method: str, path: str, **body: Any) -> None:
        data = json.dumps(body).encode()
        answer = primary.request(method, path, body=data, headers=login)
        assert answer.status in (200, 201), answer

    ask("PUT", f"/{USER}", password=USER_PASSWORD, email="ann@site.example")
    primary.put_index(HOSTED, ROOT_PASSWORD, type="stage", volatile=True, title="for development")
    ask("PUT", f"/{USER}/own", type="stage", bases=[HOSTED])
    ask("PUT", "/root/gone", type="stage")
    ask("DELETE", "/root/gone")
    for built in (wheel("app", "1.0"), sdist("app", "1.0"), wheel("app", "2.0"),
                  wheel("lib-a", "1.0", requires_python=">=3.8"), wheel("lost", "1")):  # fmt: skip
        assert upload(primary, HOSTED, built).status == 200
    url = primary.file_urls(HOSTED, "app")[wheel("app", "1.0").filename]
    ask("POST", f"{url.removeprefix(primary.url).partition('#')[0]}/+yank", reason="broken")
    ask("DELETE", f"/{HOSTED}/lost")
    assert primary.page(MIRROR, "mirrored").status == 200
    for number in range(8):  # until the log is cut
        assert upload(primary, HOSTED, wheel(f"late-{number}", "1")).status == 200


def facts(node: Node) -> dict[str, Any]:
    """What a node serves: by index and project, files with what their pages say of them."""
    return {
        index: {
            project: {
                file["filename"]: [file["hashes"], file["yanked"], file.get("requires-python")]
                for file in node.page(index, project).json()["files"]
            }
            for project in projects
        }
        for index, projects in PROJECTS.items()
    }


def make(folder: Path) -> None:
    """Run a cluster in an empty folder until all is there, and stop it."""
    with Cluster(folder) as nodes:
        upstream = nodes.upstream()
        upstream.add("json", wheel("mirrored", "1.0"), sdist("mirrored", "1.0"))
        primary = nodes.primary(f"{upstream.url}/json/simple/", *CUT, root_password=ROOT_PASSWORD)
        whole = nodes.replica(primary, "whole", "--files", "full")
        fill(primary)
        eventually(lambda: primary.status()["minimum"] > 4, 20, "the log is cut")
        part = nodes.replica(primary, "part")
        check_same_roots([primary, whole, part])
        known = facts(primary)
        assert facts(whole) == facts(part) == known
        (folder / "facts.json").write_text(json.dumps(known, indent=1))
        for node in (part, whole, primary):
            node.terminate()


def main() -> None:
    """Write the archive of this version in place of an earlier one."""
    RELEASED.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as name:
        folder, archive = Path(name), RELEASED / f"{__version__}.tar.xz"
        make(folder)
        with tarfile.open(archive, "w:xz") as tar:
            for kept in (*NAMES, "secret", "facts.json"):
                tar.add(folder / kept, kept, filter=_cleaned)
    print(f"{archive}: {archive.stat().st_size} bytes")


def _cleaned(member: tarfile.TarInfo) -> tarfile.TarInfo | None:
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    return None if member.name.rpartition("/")[2] in _LEFT_OUT else member


if __name__ == "__main__":
    main()
