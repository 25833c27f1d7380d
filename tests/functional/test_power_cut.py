"""The power goes off at each call that makes something durable: what was acknowledged is there."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest

from tests.functional.crashing import (
    INDEX,
    SOAK,
    Attempts,
    check_folder,
    killed_at,
    pair,
    recorded,
)
from tests.functional.cutting import ROOMY
from tests.functional.helpers import ROOT_PASSWORD, check_same_roots
from tests.powercut import volume
from tests.processes import Cluster, Node, eventually
from tests.strace import Point, require_strace

pytestmark = [pytest.mark.functional, pytest.mark.slow, pytest.mark.timeout(3_600 if SOAK else 400)]

DURABLE = ("fsync", "fdatasync", "rename", "write", "pwrite64")
NEVER = Point("fsync", 10_000)
"""Cuts the power when all is done, a moment after the answer."""


@pytest.fixture(autouse=True)
def _strace() -> None:
    require_strace()


def test_primary(tmp_path: Path) -> None:
    """Uploads that a primary acknowledged survive; those that it did not can be repeated."""
    with volume(tmp_path) as disk, Cluster(disk.place) as nodes:
        nodes.allow_alarms = True  # its log is on the disk that loses power
        primary = nodes.primary(None, *ROOMY, root_password=ROOT_PASSWORD)
        primary.put_index(INDEX, ROOT_PASSWORD, type="stage")
        attempts, trace = Attempts(primary), tmp_path / "trace"
        attempts.upload(attempts.new())
        found = recorded(primary, trace, lambda: attempts.upload(attempts.new()), 7)
        for point in [*(p for p in found if p.call in DURABLE), NEVER]:
            built = attempts.new()
            killed_at(primary, point, trace, partial(attempts.upload, built))
            primary.kill()
            disk.cut()
            check_folder(primary.state_dir, whole=True)
            primary.start()
            attempts.check(primary, last=len(attempts.acknowledged))
            again = attempts.upload(built)
            assert again is not None, point
            assert again.status == 200, (point, again)


def test_first_answers(tmp_path: Path) -> None:
    """What the first start of a primary, and the first write to it, made is there after a power
    cut right behind the answer, passwords included."""
    with volume(tmp_path) as disk, Cluster(disk.place) as nodes:
        nodes.allow_alarms = True
        primary = nodes.primary(None, *ROOMY, root_password=ROOT_PASSWORD)
        primary.put_index(INDEX, ROOT_PASSWORD, type="stage")
        primary.kill()
        disk.cut()
        check_folder(primary.state_dir, whole=True)
        primary.start()
        attempts = Attempts(primary)
        answer = attempts.upload(attempts.new())
        assert answer is not None
        assert answer.status == 200


def test_replica(tmp_path: Path) -> None:
    """A replica that reports an entry as durable has it after a power cut (what acknowledgement
    levels count on)."""
    with volume(tmp_path) as disk, Cluster(disk.place) as nodes:
        nodes.allow_alarms = True
        primary, replica = pair(nodes, *ROOMY)
        attempts = Attempts(primary)
        for _ in range(2):
            attempts.upload(attempts.new())
            check_same_roots([primary, replica])
            before = primary.status()
            # Its own readers see an entry sooner: what it tells its primary of is durable.
            eventually(lambda of=before["serial"]: _told(primary) == of, 10.0, "it tells of it")  # type: ignore[misc]
            replica.kill()
            primary.kill()
            disk.cut()
            check_folder(replica.state_dir, whole=False)
            replica.start()
            assert replica.status()["serial"] == before["serial"]
            assert replica.status()["root"] == before["root"]
            primary.start()


def _told(primary: Node) -> int:
    positions: list[int] = [one["position"] for one in primary.status()["replicas"]]
    return positions[0] if positions else 0
