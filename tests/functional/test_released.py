"""State folders that released versions wrote, opened by this one."""

from __future__ import annotations

import json
import tarfile
from contextlib import closing
from pathlib import Path
from sqlite3 import connect

import pytest

from cluster.state import schema
from tests.builders import wheel
from tests.functional.helpers import check_same_roots, upload, wait_visible
from tests.functional.scenarios.test_upgrade import check_verified
from tests.make_released import HOSTED, NAMES, RELEASED, USER, USER_PASSWORD, facts
from tests.processes import Cluster, Node, http

pytestmark = [pytest.mark.functional, pytest.mark.slow]

ARCHIVES = sorted(RELEASED.glob("*.tar.xz"))


def first_entry(node: Node) -> int:
    with closing(connect(node.state_dir / "log.sqlite")) as database:
        serial: int = database.execute("SELECT min(serial) FROM log").fetchone()[0]
        return serial


@pytest.mark.parametrize("archive", ARCHIVES, ids=lambda path: path.name)
def test_opened_by_this_version(nodes: Cluster, archive: Path) -> None:
    """A primary with a log that is cut, a replica with all of it and one that began with a
    snapshot serve what they served, have the same rows, and go on: a login, an upload."""
    with tarfile.open(archive) as tar:
        tar.extractall(nodes.directory, filter="data")
    primary = nodes.node(NAMES[0], "pymirror-primary", ["--no-root-pypi"])
    follow = ["--primary-url", primary.url]
    whole, part = (nodes.node(name, "pymirror-replica", follow) for name in NAMES[1:])
    assert first_entry(whole) == 1 < min(first_entry(primary), first_entry(part) or 2)
    known = json.loads((nodes.directory / "facts.json").read_text())
    for node in (primary, whole, part):
        node.start()
        assert facts(node) == known
    for replica in (whole, part):
        check_verified(nodes, replica, primary)
    assert part.status()["serial"] == primary.status()["serial"]
    body = json.dumps({"user": USER, "password": USER_PASSWORD}).encode()
    headers = {"Content-Type": "application/json"}
    assert part.request("POST", "/+login", body=body, headers=headers).status == 200
    [(name, (hashes, _, _))] = known[HOSTED]["lib-a"].items()
    assert http("GET", part.file_urls(HOSTED, "lib-a")[name]).status == 200, hashes
    built = wheel("app", "3.0")
    assert upload(part, HOSTED, built).status == 200
    check_same_roots([primary, whole, part])
    wait_visible(whole, HOSTED, built, 5)
    for node in (primary, whole, part):
        node.terminate()
        with closing(connect(node.state_dir / "log.sqlite")) as database:
            assert database.execute("PRAGMA user_version").fetchone()[0] == schema.VERSION


def test_there_are_archives() -> None:
    """The test above has something to open."""
    assert ARCHIVES
