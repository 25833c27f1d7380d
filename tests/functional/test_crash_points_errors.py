"""A disk that refuses: a node says so in its status, acknowledges nothing, serves what it has, and
has all again when the disk is mended.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from cluster.promotion import opened, standing
from tests.functional.crashing import (
    INDEX,
    SOAK,
    Attempts,
    check_folder,
    command,
    copied,
    pair,
    run_traced,
)
from tests.functional.helpers import check_same_pages, check_same_roots
from tests.processes import Cluster, Node, eventually
from tests.strace import attached, points, require_strace, spread, traced

pytestmark = [pytest.mark.functional, pytest.mark.slow, pytest.mark.timeout(3_600 if SOAK else 400)]


@pytest.fixture(autouse=True)
def _strace() -> None:
    require_strace()


def _refusing(call: str, error: str) -> str:
    return f"inject={call}:error={error}"


@pytest.mark.parametrize(
    ("call", "error"), [("pwrite64", "EIO"), ("pwrite64", "ENOSPC"), ("fsync", "EIO")]
)
def test_applying(nodes: Cluster, tmp_path: Path, call: str, error: str) -> None:
    """A replica whose disk takes no entries says that, and tells its primary of none; it serves
    what it has. They come when the disk is well again, after an fsync that failed with a restart.
    """
    nodes.allow_alarms = True
    primary, replica = pair(nodes)
    attempts = Attempts(primary)
    attempts.upload(attempts.new())
    check_same_roots([primary, replica])
    before = primary.status()["serial"]
    log = replica.state_dir / "log.sqlite-wal"
    with attached(replica.pid, tmp_path / "trace", _refusing(call, error), only=log):
        attempts.upload(attempts.new())
        follower = eventually(lambda: _trouble(replica), 10.0, "the status tells")
        _check_told(follower)
        assert ("restart" in str(follower["last_error"])) == (call == "fsync")
        assert primary.status()["replicas"][0]["position"] <= before
        assert attempts.acknowledged[0].filename in replica.file_urls(INDEX, "crash")
    if call == "fsync":
        _check_told(replica.status()["follower"])
        replica.kill()
        check_folder(replica.state_dir, whole=False)
        replica.start()
    check_same_roots([primary, replica])
    check_same_pages([primary, replica], INDEX, ["", "crash"])
    attempts.check(replica)


def _check_told(follower: dict[str, object]) -> None:
    """The status says that it is the disk, in words for people."""
    assert follower["state"] == "disk-failed"
    assert "log.sqlite cannot be" in str(follower["last_error"])
    assert "disk" in str(follower["hint"])
    for of_the_program in ("Traceback", "sqlite3.", "INSERT", "https:"):
        assert of_the_program not in str(follower)


def _trouble(replica: Node) -> dict[str, object] | None:
    follower: dict[str, object] = replica.status()["follower"]
    return follower if follower["failures"] else None


@pytest.mark.parametrize("error", ["EIO", "ENOSPC"])
def test_promoting(nodes: Cluster, tmp_path: Path, error: str) -> None:
    """`pymirror promote` on a disk that refuses has promoted or says why not, without a
    traceback, and can be repeated."""
    primary, replica = pair(nodes)
    primary.kill()
    replica.terminate()
    saved, trace = copied(replica.state_dir, tmp_path / "saved"), tmp_path / "trace"
    line = command(nodes, "promote", replica.state_dir)
    assert run_traced(line, trace) == 0
    refused = 0
    found = points(trace, replica.state_dir)
    for point in found if SOAK else spread(found, 4):
        copied(saved, replica.state_dir)
        hindered = traced(line, trace, point.inject(f"error={error}"))
        done = subprocess.run(hindered, capture_output=True, text=True, timeout=60)
        said = f"{point}: {done.stderr}"
        assert "Traceback" not in done.stderr, said
        assert done.returncode in (0, 1), said
        check_folder(replica.state_dir, whole=False)
        assert done.returncode or _epoch(replica) == 2, said
        refused += done.returncode
        if done.returncode:
            assert "Error: " in done.stderr, said
            assert run_traced(line, trace) == 0, said
    assert refused >= 2, "the points are not where the work is"


def _epoch(node: Node) -> int:
    with opened(node.state_dir) as engine:
        return standing(engine).epoch
