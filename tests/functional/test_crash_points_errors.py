"""A disk that refuses: a node says so in its status, acknowledges nothing, serves what it has, and
has all again when the disk is mended.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.functional.crashing import INDEX, Attempts, check_folder, pair
from tests.functional.helpers import check_same_pages, check_same_roots
from tests.processes import Cluster, Node, eventually
from tests.strace import attached, require_strace

pytestmark = [pytest.mark.functional, pytest.mark.slow]


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
