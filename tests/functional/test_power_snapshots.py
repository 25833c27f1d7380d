"""The power goes off while a snapshot is made, a log is cut behind it, or a replica starts from
one: what has its name is whole, and the log begins nowhere that no snapshot leads to.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from cluster.log import changelog
from cluster.promotion import opened
from tests.functional.crashing import (
    INDEX,
    SOAK,
    Attempts,
    check_folder,
    ended_by,
    killed_at,
    makes_snapshots,
    start_points,
)
from tests.functional.cutting import NEVER, Site, recorded_in, site, whole_snapshots
from tests.functional.helpers import ROOT_PASSWORD, check_same_roots
from tests.processes import Node
from tests.strace import Point, require_strace, spread

pytestmark = [pytest.mark.functional, pytest.mark.slow, pytest.mark.timeout(3_600 if SOAK else 400)]

CUT = ("--no-root-pypi", "--keep-entries", "0", "--keep-days", "0")


@pytest.fixture(autouse=True)
def _strace() -> None:
    require_strace()


def _primary(where: Site) -> Node:
    more = (*CUT, "--root-passwd-file", where.root_password_file())
    primary = where.node("primary", "pymirror-primary", *more).start()
    primary.put_index(INDEX, ROOT_PASSWORD, type="stage")
    return primary


def test_making(tmp_path: Path) -> None:
    """A primary that loses its power while it makes a snapshot, or cuts its log behind one, has
    all that it acknowledged, and a fresh replica can start from what there is."""
    with site(tmp_path) as where:
        primary = _primary(where)
        attempts = Attempts(primary)
        make = makes_snapshots(attempts)
        for _ in range(3):
            make()
        folder = primary.state_dir
        making = recorded_in(folder / "snapshots", primary, where.trace, make, 3)
        # The upload's commit is the first, the cut of the log comes behind the snapshot.
        cutting = recorded_in(folder / "log.sqlite", primary, where.trace, make, 60)
        cutting = cutting if SOAK else cutting[-2:]
        kills = sum(_made(where, attempts, point, make) for point in [*making, *cutting, NEVER])
        assert kills >= len(making), "the points are not where the work is"
        replica = where.beside.replica(primary)
        check_same_roots([primary, replica])
        attempts.check(replica)
        assert "starting from the snapshot" in replica.log_text()


def _made(where: Site, attempts: Attempts, point: Point, make: Callable[[], None]) -> bool:
    primary, folder = attempts.node, attempts.node.state_dir
    was_killed = killed_at(primary, point, where.trace, make)
    primary.kill()
    where.disk.cut()
    check_folder(folder, whole=True)
    whole = whole_snapshots(folder, where.beside.secret_file.read_bytes().strip())
    assert [serial for serial in whole if serial >= _minimum(folder)], (point, whole)
    primary.start()
    attempts.check(primary)
    make()
    return was_killed


def _serial(folder: Path) -> int:
    with opened(folder) as engine, engine.begin() as connection:
        return changelog.size(connection)


def _minimum(folder: Path) -> int:
    with opened(folder) as engine, engine.begin() as connection:
        return changelog.minimum(connection)


def test_starting(tmp_path: Path) -> None:
    """A replica that loses its power while it starts from a snapshot starts again, and has the
    primary's log and state."""
    with site(tmp_path) as where:
        more = (*CUT, "--root-passwd-file", where.root_password_file())
        primary = where.beside.node("primary", "pymirror-primary", list(more)).start()
        primary.put_index(INDEX, ROOT_PASSWORD, type="stage")
        attempts = Attempts(primary)
        make = makes_snapshots(attempts)
        for _ in range(3):
            make()
        replica = where.node("replica", "pymirror-replica", "--primary-url", primary.url)
        kills = 0
        for point in [*_starting_points(where, replica), NEVER]:
            _empty(where, replica)
            kills += ended_by(replica, point.inject("signal=SIGKILL"), where.trace)
            where.disk.cut()
            if (replica.state_dir / "log.sqlite").is_symlink():
                # It is made last: what it leads to is whole.
                assert _serial(replica.state_dir) == primary.status()["serial"], point
            replica.start()
            check_same_roots([primary, replica])
            attempts.check(replica)
            replica.kill()
            check_folder(replica.state_dir, whole=False)
        assert kills >= 2, "the points are not where the work is"


def _starting_points(where: Site, replica: Node) -> list[Point]:
    found = start_points(replica, where.trace, calls=_MOVES)
    if SOAK:
        return found
    linked = found.index(Point("symlink", 1))  # from here on the new file is the node's
    behind = [p for p in found[linked:] if p.call in ("symlink", "unlinkat")]
    return [*spread(found[:linked], 2), *spread(behind, 3)]


_MOVES = ("fsync", "fdatasync", "rename", "symlink", "unlink", "unlinkat")


def _empty(where: Site, replica: Node) -> None:
    shutil.rmtree(replica.state_dir)
    replica.state_dir.mkdir()
    where.disk.settle()
