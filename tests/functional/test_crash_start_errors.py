"""A disk that refuses while a node starts: the node says so and ends, or goes on by itself; the
next start on a disk that is well has all.
"""

from __future__ import annotations

import shutil
import tarfile
from http.client import HTTPException
from pathlib import Path

import pytest

from cluster.state import schema
from tests.functional.crashing import (
    INDEX,
    SOAK,
    Attempts,
    check_folder,
    copied,
    ended_by,
    is_ready,
    makes_snapshots,
    start_points,
)
from tests.functional.helpers import ROOT_PASSWORD, check_same_roots
from tests.functional.test_power_upgrade import Held, held, make_older
from tests.make_released import RELEASED
from tests.processes import Cluster, Node, free_port
from tests.strace import WRITES, Point, require_strace, spread

pytestmark = [pytest.mark.functional, pytest.mark.slow, pytest.mark.timeout(3_600 if SOAK else 600)]

CUT = ("--keep-entries", "0", "--keep-days", "0")


@pytest.fixture(autouse=True)
def _strace() -> None:
    require_strace()


@pytest.mark.parametrize("error", ["EIO", "ENOSPC"])
def test_from_a_snapshot(nodes: Cluster, tmp_path: Path, error: str) -> None:
    """A fresh replica whose disk refuses at some point of its start from a snapshot."""
    nodes.allow_alarms = True
    primary = nodes.primary(None, *CUT, root_password=ROOT_PASSWORD)
    primary.put_index(INDEX, ROOT_PASSWORD, type="stage")
    attempts = Attempts(primary)
    make = makes_snapshots(attempts)
    for _ in range(3):
        make()
    replica = nodes.node("replica", "pymirror-replica", ["--primary-url", primary.url])
    trace, hindered = tmp_path / "trace", 0
    for point in _points(replica, trace, 8):
        shutil.rmtree(replica.state_dir)
        replica.state_dir.mkdir()
        hindered += _hindered(replica, trace, point.inject(f"error={error}"))
        replica.start()
        check_same_roots([primary, replica])
        attempts.check(replica)
        replica.kill()
        check_folder(replica.state_dir, whole=False)
    assert hindered >= 2, "the points are not where the work is"


@pytest.mark.parametrize("error", ["EIO", "ENOSPC"])
def test_with_other_tables(nodes: Cluster, tmp_path: Path, error: str) -> None:
    """A node whose disk refuses while it refills tables of another version from its log."""
    nodes.allow_alarms = True
    with tarfile.open(sorted(RELEASED.glob("*.tar.xz"))[-1]) as tar:
        tar.extractall(tmp_path / "released", filter="data")
    nodes.secret_file.write_bytes((tmp_path / "released" / "secret").read_bytes())
    away = ["--primary-url", f"http://127.0.0.1:{free_port()}"]
    node = nodes.node("whole", "pymirror-replica", away)
    shutil.copytree(tmp_path / "released" / "whole", node.state_dir, dirs_exist_ok=True)
    before = held(node.state_dir, schema.VERSION)
    make_older(node.state_dir)
    saved, trace, hindered = copied(node.state_dir, tmp_path / "saved"), tmp_path / "trace", 0
    for point in _points(node, trace, 6, "log.sqlite"):
        copied(saved, node.state_dir)
        hindered += _hindered(node, trace, point.inject(f"error={error}"))
        assert held(node.state_dir, schema.VERSION) in (before, Held(1, before.root, None)), point
        node.start().kill()
        assert held(node.state_dir, schema.VERSION) == before, point
    assert hindered >= 2, "the points are not where the work is"


def _points(node: Node, trace: Path, most: int, name: str = "") -> list[Point]:
    found = start_points(node, trace, name, WRITES)
    return found if SOAK else spread(found, most)


def _hindered(node: Node, trace: Path, injection: str) -> bool:
    """Start a node, and kill it when it is ready or waits for a restart; whether it could not be
    ready at once, which it has said in a sentence.
    """
    node.log.write_bytes(b"")
    has_ended, said = ended_by(node, injection, trace, 40.0, _is_settled), node.log_text()
    if has_ended:
        assert "pymirror cannot start: " in said, (injection, said)
        assert "Traceback" not in said, (injection, said)
    return has_ended or "disk-failed" in said


def _is_settled(node: Node) -> bool:
    try:
        follower = node.status()["follower"]
    except (OSError, HTTPException):
        return False
    return is_ready(node) or "restart" in str(follower["hint"]) + str(follower["last_error"])
