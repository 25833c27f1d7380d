"""`pymirror verify` between real nodes: equal ones, and each way of being different."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.builders import wheel
from tests.functional.helpers import ROOT_PASSWORD, check_same_roots, upload
from tests.processes import Cluster, Node

pytestmark = pytest.mark.functional

Trio = tuple[Cluster, Node, Node]
BUILT = [wheel(f"project-{number}", "1.0") for number in range(4)]


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Trio]:
    """A primary with some uploads and a replica that is in sync."""
    with Cluster(tmp_path) as cluster:
        primary = cluster.primary(None, root_password=ROOT_PASSWORD)
        primary.put_index("root/dev", ROOT_PASSWORD, type="stage", acl_pkg_read=["root"])
        primary.put_index("root/app", ROOT_PASSWORD, type="stage", bases=["root/dev"])
        for built in BUILT:
            assert upload(primary, "root/dev", built).status == 200
        replica = cluster.replica(primary)
        check_same_roots([primary, replica])
        yield cluster, primary, replica


def verify(cluster: Cluster, one: Node, other: Node, level: int) -> tuple[int, dict[str, Any]]:
    """Exit code and JSON of the command."""
    done = subprocess.run(
        [
            str(Path(sys.executable).with_name("pymirror")), "verify", one.url, "--against",
            other.url, "--level", str(level), "--secret-file", str(cluster.secret_file), "--json",
        ],
        stdout=subprocess.PIPE, timeout=120, check=False,
    )  # fmt: skip
    return done.returncode, json.loads(done.stdout)


def change(node: Node, statement: str) -> None:
    """Damage a node's index state behind its back."""
    node.terminate()
    with sqlite3.connect(node.state_dir / "log.sqlite") as connection:
        assert connection.execute(statement).rowcount > 0
    connection.close()
    node.start()


def test_equal(pair: Trio) -> None:
    """Nodes in sync are equal on all levels, also the private index's pages and files."""
    cluster, primary, replica = pair
    code, said = verify(cluster, replica, primary, 4)
    assert (code, said["equal"]) == (0, True), said
    assert said["levels"]["files"]["files"] == 2 * len(BUILT)
    assert said["levels"]["pages"]["pages"] == 2 * len(BUILT)
    assert said["levels"]["log"]["entries"] == primary.status()["serial"]


def test_different_state(pair: Trio) -> None:
    """A row that the log does not account for is found by its project's name, on level 2."""
    cluster, primary, replica = pair
    change(replica, "UPDATE files SET serial = serial + 1 WHERE project = 'project-2'")
    assert verify(cluster, primary, replica, 1)[0] == 0
    code, said = verify(cluster, primary, replica, 4)
    assert (code, said["levels"]["state"]["equal"]) == (1, False)
    assert said["differences"] == ["the state of root/dev project-2"]
    assert "pages" not in said["levels"]


def test_different_log(pair: Trio, tmp_path: Path) -> None:
    """Another cluster's log is different; so is one with another history."""
    cluster, primary, replica = pair
    replica.terminate()
    for number in range(2):
        assert upload(primary, "root/dev", wheel(f"late-{number}", "1.0")).status == 200
    code, said = verify(cluster, primary, primary, 1)
    assert (code, said["levels"]["log"]["entries behind"]) == (0, 0)
    tile = "UPDATE tiles SET hashes = zeroblob(length(hashes)) WHERE level = 0"
    change(primary, tile)
    primary.kill()
    assert verify(cluster, primary, primary, 1)[0] == 2


def test_rotten_file(pair: Trio) -> None:
    """A file whose bytes changed on a node's disk is found on level 4 alone."""
    cluster, primary, replica = pair
    rotten = BUILT[1]
    path = primary.state_dir / "files" / "sha256" / rotten.sha256[:2] / rotten.sha256
    path.chmod(0o600)
    path.write_bytes(rotten.data[:-1] + b"?")
    os.utime(path, (0, 0))
    assert verify(cluster, replica, primary, 3)[0] == 0
    code, said = verify(cluster, primary, primary, 4)
    assert code == 1
    assert any(rotten.filename in line for line in said["differences"])
