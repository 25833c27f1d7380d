"""`pymirror verify` where nodes admit each other by their own keys alone."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.builders import wheel
from tests.functional.helpers import ROOT_PASSWORD, check_same_roots, upload
from tests.functional.test_joining import invite, joining, revoke
from tests.processes import Cluster, Node

pytestmark = pytest.mark.functional

Trio = tuple[Node, Node, Node]
BUILT = [wheel("demo", "1.0"), wheel("demo", "2.0+local.1"), wheel("other", "1.0")]


@pytest.fixture
def trio(tmp_path: Path) -> Iterator[Trio]:
    """A primary and two replicas, the second behind the first; a private index with uploads."""
    with Cluster(tmp_path) as cluster:
        keys = "--require-node-keys"
        primary = cluster.primary(None, keys, root_password=ROOT_PASSWORD)
        primary.put_index("root/dev", ROOT_PASSWORD, type="stage", acl_pkg_read=["root"])
        for built in BUILT:
            assert upload(primary, "root/dev", built).status == 200
        one = joining(cluster, primary, invite(primary), "one", keys).start()
        two = joining(cluster, one, invite(primary), "two", keys).start()
        check_same_roots([primary, one, two])
        yield primary, one, two


def verify(one: Node, other: Node, level: int, *options: str) -> tuple[int, dict[str, Any]]:
    """Exit code and JSON of the command."""
    done = subprocess.run(
        [
            str(Path(sys.executable).with_name("pymirror")), "verify", one.url, "--against",
            other.url, "--level", str(level), "--json", *options,
        ],
        stdout=subprocess.PIPE, timeout=120, check=False,
    )  # fmt: skip
    return done.returncode, json.loads(done.stdout)


def change(node: Node, statement: str) -> None:
    """Damage a node's index state behind its back."""
    node.terminate()
    with closing(sqlite3.connect(node.state_dir / "log.sqlite")) as connection, connection:
        assert connection.execute(statement).rowcount > 0
    node.start()


def test_by_the_key_of_a_node(trio: Trio) -> None:
    """All levels, between any two nodes, by the key of a node that runs: also private pages, and
    file names with escapes; a difference is found."""
    primary, one, two = trio
    by_key = ("--state-dir", str(two.state_dir))
    for pair in ((primary, one), (one, two), (two, primary)):
        code, said = verify(*pair, 4, *by_key)
        assert (code, said["equal"]) == (0, True), said
        assert said["levels"]["files"]["files"] == 2 * len(BUILT)
    change(one, "UPDATE files SET serial = serial + 1 WHERE project = 'demo'")
    code, said = verify(one, primary, 4, *by_key)
    assert (code, said["differences"]) == (1, ["the state of root/dev demo"])


def test_without_a_key(trio: Trio) -> None:
    """The log can be compared by anybody; for the rest, neither the secret nor the folder of a
    node without a key is enough, and the message says what is. So it is after a revocation."""
    primary, one, two = trio
    secret = str(one.state_dir / "secret")
    assert verify(primary, two, 1)[0] == 0
    by_secret = ["--secret-file", secret]
    ways: tuple[list[str], ...] = (
        [],
        by_secret,
        ["--state-dir", str(primary.state_dir), *by_secret],
    )
    for options in ways:
        code, said = verify(primary, two, 3, *options)
        assert (code, said["equal"], said["differences"]) == (2, False, []), options
        assert any("--state-dir" in line for line in said["unable"]), said
    assert revoke(primary, two).status == 200
    code, said = verify(primary, one, 2, "--state-dir", str(two.state_dir))
    assert code == 2
    assert any("was revoked" in line for line in said["unable"]), said
