"""The power goes off while a replica is made a primary, or an old primary a replica: either has
happened or not, the command can be repeated, and what it said to have done is done.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from cluster.log import changelog
from cluster.promotion import opened, standing
from primary.bootstrap import load_key, public_text
from tests.functional.crashing import (
    INDEX,
    SOAK,
    Attempts,
    check_folder,
    command,
    copied,
    run_traced,
)
from tests.functional.cutting import DURABLE, NEVER, Site, site
from tests.functional.helpers import ROOT_PASSWORD, check_same_roots
from tests.processes import Node, basic, eventually
from tests.strace import Point, points, require_strace, spread

pytestmark = [pytest.mark.functional, pytest.mark.slow, pytest.mark.timeout(3_600 if SOAK else 400)]


@pytest.fixture(autouse=True)
def _strace() -> None:
    require_strace()


def _is_owner(node: Node) -> bool:
    """Whether the log's last epoch is this folder's; its key is here then."""
    with opened(node.state_dir) as engine:
        starts = standing(engine).starts
    if starts:
        assert starts[-1].key == public_text(load_key(node.state_dir))
    return bool(starts)


def _chosen(where: Site, node: Node, most: int) -> list[Point]:
    """Points of the command that was recorded last, and the moment after its end."""
    found = [p for p in points(where.trace, node.state_dir) if p.call in DURABLE]
    return [*(found if SOAK else spread(found, most)), NEVER]


def _cut_at(where: Site, node: Node, saved: Path, line: list[str], point: Point) -> bool:
    """Run a command on a copy of a folder until the power goes off; whether it ended before."""
    copied(saved, node.state_dir)
    where.disk.settle()
    done = run_traced(line, where.trace, point.inject("signal=SIGKILL")) == 0
    where.disk.cut()
    return done


def _repeat(line: list[str]) -> None:
    done = subprocess.run(line, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_promote(tmp_path: Path) -> None:
    """`pymirror promote` has promoted for good when it says so; else not, and can be repeated."""
    with site(tmp_path) as where:
        old = where.beside.primary(root_password=ROOT_PASSWORD)
        old.put_index(INDEX, ROOT_PASSWORD, type="stage")
        replica = where.node("replica", "pymirror-replica", "--primary-url", old.url).start()
        attempts = Attempts(old)
        attempts.upload(attempts.new())
        check_same_roots([old, replica])
        replica.terminate()
        old.kill()
        saved = copied(replica.state_dir, tmp_path / "saved")
        line = command(where.beside, "promote", replica.state_dir)
        assert run_traced(line, where.trace) == 0
        cuts = 0
        for point in _chosen(where, replica, 5):
            done = _cut_at(where, replica, saved, line, point)
            cuts += not done
            check_folder(replica.state_dir, whole=False)
            if not _is_owner(replica):
                assert not done, point
                _repeat(line)
                assert _is_owner(replica), point
        assert cuts >= 2, "the points are not where the work is"
        new = where.become(replica, "pymirror-primary").start()
        assert new.status()["epoch"] == 2
        assert new.put_index("root/more", ROOT_PASSWORD, type="stage").status == 200


def test_demote(tmp_path: Path) -> None:
    """`pymirror demote` takes back what nobody else has only when it is kept in a file, and can
    be repeated until it has."""
    _demote(tmp_path, is_cut=False)


def test_demote_with_a_cut_log(tmp_path: Path) -> None:
    """So it does where the log cannot be replayed, and the old database is put away."""
    _demote(tmp_path, is_cut=True)


def _demote(folder: Path, *, is_cut: bool) -> None:
    with site(folder) as where:
        old, new, lost = _replaced(where, is_cut=is_cut)
        saved = copied(old.state_dir, folder / "saved")
        line = command(where.beside, "demote", old.state_dir, "--primary-url", new.url)
        assert run_traced(line, where.trace) == 0
        cuts = 0
        for point in _chosen(where, old, 4):
            done = _cut_at(where, old, saved, line, point)
            cuts += not done
            if not done and (old.state_dir / "log.sqlite").exists():
                _repeat(line)
            kept = b"".join(path.read_bytes() for path in old.state_dir.glob("orphaned-*.log"))
            assert lost <= set(kept.splitlines()), point
            assert (old.state_dir / "log-identity").exists(), point
            assert not (old.state_dir / "log-key").exists(), point
            if not is_cut:
                check_folder(old.state_dir, whole=False)
        assert cuts >= 2, "the points are not where the work is"
        again = where.become(old, "pymirror-replica", "--primary-url", new.url).start()
        check_same_roots([new, again])


def _replaced(where: Site, *, is_cut: bool) -> tuple[Node, Node, set[bytes]]:
    """A stopped primary on the disk, who has its place, and the entries that only it has."""
    keep = ("--keep-entries", "0", "--keep-days", "0") if is_cut else ()
    more = ("--no-root-pypi", "--root-passwd-file", where.root_password_file(), *keep)
    old = where.node("primary", "pymirror-primary", *more).start()
    old.put_index(INDEX, ROOT_PASSWORD, type="stage")
    attempts = Attempts(old)
    for number in range(2 if is_cut else 0):
        attempts.upload(attempts.new())
        old.request("POST", "/+log/snapshots", headers=basic("root", ROOT_PASSWORD))
        eventually(lambda of=number: len(old.status()["snapshots"]) > of, 10.0, "a snapshot")  # type: ignore[misc]
    if is_cut:
        eventually(lambda: old.status()["minimum"], 10.0, "the log is cut")
    replica = where.beside.replica(old)
    check_same_roots([old, replica])
    replica.terminate()
    attempts.upload(attempts.new())
    old.kill()
    with opened(old.state_dir) as engine, engine.begin() as connection:
        entries = list(changelog.entries(connection, changelog.minimum(connection)))
    _repeat(command(where.beside, "promote", replica.state_dir))
    new = where.beside.become(replica, "pymirror-primary").start()
    return old, new, {entry.raw for entry in entries[-1:]}
