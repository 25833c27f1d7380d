"""A crash, or an error of the disk, at each call that changes a node's folder: nothing that was
acknowledged is lost, nothing is half there, and the same operation succeeds when it is repeated.

strace stops the real programs at the chosen calls. CI takes some points of each scenario, all
that sync or rename among them; ``make soak`` takes all.
"""

from __future__ import annotations

import time
from functools import partial
from http.client import HTTPException
from pathlib import Path

import pytest

from cluster.log import changelog
from cluster.log.changes import Entry
from cluster.promotion import opened, standing
from tests.functional.crashing import (
    INDEX,
    SOAK,
    Attempts,
    check_folder,
    command,
    copied,
    killed_at,
    pair,
    recorded,
    run_traced,
    start_killed_at,
    start_points,
    temporaries,
    under_strace,
)
from tests.functional.helpers import ROOT_PASSWORD, check_same_roots
from tests.processes import Cluster, Node, basic, eventually, http
from tests.strace import Point, attached, points, require_strace, spread

pytestmark = [pytest.mark.functional, pytest.mark.slow, pytest.mark.timeout(3_600 if SOAK else 400)]


@pytest.fixture(autouse=True)
def _strace() -> None:
    require_strace()


def _spread(found: list[Point], most: int) -> list[Point]:
    return found if SOAK else spread(found, most)


def test_upload(nodes: Cluster, tmp_path: Path) -> None:
    """A primary that dies in an upload keeps what it acknowledged, and takes the upload again."""
    primary = nodes.primary(root_password=ROOT_PASSWORD)
    primary.put_index(INDEX, ROOT_PASSWORD, type="stage")
    attempts, trace = Attempts(primary), tmp_path / "trace"
    attempts.upload(attempts.new())
    chosen = recorded(primary, trace, lambda: attempts.upload(attempts.new()), 9)
    kills = 0
    for point in chosen:
        built = attempts.new()
        kills += killed_at(primary, point, trace, partial(attempts.upload, built))
        primary.kill()
        check_folder(primary.state_dir, whole=True)
        primary.start()
        attempts.check(primary)
        again = attempts.upload(built)
        assert again is not None, point
        assert again.status == 200, (point, again)
        assert temporaries(primary.state_dir) == [], point
    attempts.check(primary, last=len(attempts.acknowledged))
    assert kills >= len(chosen) // 2, "the points are not where the work is"


def test_replica(nodes: Cluster, tmp_path: Path) -> None:
    """A replica that dies while it applies entries, or fetches a file, has its log's state, and
    goes on."""
    primary, replica = pair(nodes)
    attempts, trace = Attempts(primary), tmp_path / "trace"

    def follow_and_fetch() -> None:
        built = attempts.new()
        answer = attempts.upload(built)
        assert answer is not None
        try:
            replica.wait_serial(int(answer.headers["x-pymirror-serial"]), 5.0)
            http("GET", replica.file_urls(INDEX, "crash")[built.filename])
        except (OSError, HTTPException, AssertionError):
            assert not replica.running or trace.exists()

    follow_and_fetch()
    chosen = recorded(replica, trace, follow_and_fetch, 7)
    kills = 0
    for point in chosen:
        kills += killed_at(replica, point, trace, follow_and_fetch)
        replica.kill()
        check_folder(replica.state_dir, whole=False)
        replica.start()
        check_same_roots([primary, replica])
        attempts.check(replica)
        assert temporaries(replica.state_dir) == [], point
    assert kills >= len(chosen) // 2, "the points are not where the work is"


@pytest.mark.parametrize("error", ["EIO", "ENOSPC"])
def test_disk_errors(nodes: Cluster, tmp_path: Path, error: str) -> None:
    """An upload that the disk refuses at any call is answered 5xx and leaves nothing behind; the
    next one succeeds, without a restart."""
    nodes.allow_alarms = True  # each refusal is logged with its cause
    primary = nodes.primary(root_password=ROOT_PASSWORD)
    primary.put_index(INDEX, ROOT_PASSWORD, type="stage")
    attempts, trace = Attempts(primary), tmp_path / "trace"
    attempts.upload(attempts.new())
    found = recorded(primary, trace, lambda: attempts.upload(attempts.new()), 16)
    refused = 0
    for point in found:
        if point.call.startswith("unlink"):
            continue  # what cannot be tidied up is tidied up at the next start
        built = attempts.new()
        with attached(primary.pid, trace, point.inject(f"error={error}")):
            answer = attempts.upload(built)
        assert answer is not None, point
        hit = "(INJECTED)" in trace.read_text()
        if hit and point.call in ("fsync", "fdatasync", "rename", "pwrite64"):
            # Without success of the sync there is no success; behind the commit it may be late.
            assert answer.status >= 500 or _is_of_other_work(trace), (point, answer)
        if answer.status != 200:
            assert answer.status in (500, 503, 507), (point, answer)
            refused += 1
            assert built.filename not in primary.page(INDEX, "crash").body.decode()
            again = attempts.upload(built)
            assert again is not None
            assert again.status == 200, (point, again)
    attempts.check(primary, last=len(attempts.acknowledged))
    assert refused >= len(found) // 3, "the points are not where the work is"
    primary.kill()
    check_folder(primary.state_dir, whole=True)


def _is_of_other_work(trace: Path) -> bool:
    """Whether the call that failed was not about the upload: freshness, searching."""
    failed = [line for line in trace.read_text().splitlines() if "(INJECTED)" in line]
    return all("local.sqlite" in line or "search.sqlite" in line for line in failed)


def test_first_start(nodes: Cluster, tmp_path: Path) -> None:
    """A primary that dies in its first start begins its log once, and only once."""
    primary = nodes.primary(root_password=ROOT_PASSWORD)
    primary.terminate()
    trace, clean = tmp_path / "trace", tmp_path / "clean"
    clean.mkdir()
    for point in [None, *_start_points(nodes, primary, clean, trace)]:
        copied(clean, primary.state_dir)
        nodes.secret_file.unlink(missing_ok=True)
        if point is not None:
            start_killed_at(primary, point, trace)
        primary.start()
        assert primary.status()["serial"] == 2
        assert primary.put_index(INDEX, ROOT_PASSWORD, type="stage").status == 200
        primary.kill()
        check_folder(primary.state_dir, whole=True)


def _start_points(nodes: Cluster, primary: Node, clean: Path, trace: Path) -> list[Point]:
    copied(clean, primary.state_dir)
    nodes.secret_file.unlink(missing_ok=True)
    return _spread(start_points(primary, trace), 5)


@pytest.fixture
def switched(nodes: Cluster) -> tuple[Node, Node]:
    """A primary with an entry that its stopped replica does not have, stopped as well."""
    primary, replica = pair(nodes)
    attempts = Attempts(primary)
    attempts.upload(attempts.new())
    check_same_roots([primary, replica])
    replica.terminate()
    attempts.upload(attempts.new())
    primary.kill()
    return primary, replica


def test_promote(nodes: Cluster, switched: tuple[Node, Node], tmp_path: Path) -> None:
    """`pymirror promote` that dies has promoted or not, and can be repeated."""
    _, replica = switched
    saved, trace = copied(replica.state_dir, tmp_path / "saved"), tmp_path / "trace"
    line = command(nodes, "promote", replica.state_dir)
    assert run_traced(line, trace) == 0
    for point in _spread(points(trace, replica.state_dir), 8):
        copied(saved, replica.state_dir)
        run_traced(line, trace, point.inject("signal=SIGKILL"))
        check_folder(replica.state_dir, whole=False)
        epoch = _epoch(replica)
        assert epoch in (1, 2), point
        assert run_traced(line, trace) == 0, point
        assert _epoch(replica) == epoch + 1, point
    new = nodes.become(replica, "pymirror-primary").start()
    assert new.status()["epoch"] in (2, 3)


def test_demote(nodes: Cluster, switched: tuple[Node, Node], tmp_path: Path) -> None:
    """`pymirror demote` that dies can be repeated: the entries that nobody else has are in files,
    the log is the new primary's."""
    old, replica = switched
    trace = tmp_path / "trace"
    saved = copied(old.state_dir, tmp_path / "saved")
    lost = [entry.raw for entry in _entries(saved)[_serial(replica) :]]
    assert run_traced(command(nodes, "promote", replica.state_dir), trace) == 0
    new = nodes.become(replica, "pymirror-primary").start()
    line = command(nodes, "demote", old.state_dir, "--primary-url", new.url)
    assert run_traced(line, trace) == 0
    for point in _spread(points(trace, old.state_dir), 8):
        copied(saved, old.state_dir)
        run_traced(line, trace, point.inject("signal=SIGKILL"))
        check_folder(old.state_dir, whole=False)
        assert run_traced(line, trace) == 0, point
        check_folder(old.state_dir, whole=False)
        kept = b"".join(path.read_bytes() for path in old.state_dir.glob("orphaned-*.log"))
        assert set(lost) <= set(kept.splitlines()), point
    again = nodes.become(old, "pymirror-replica", "--primary-url", new.url).start()
    check_same_roots([new, again])


def _epoch(node: Node) -> int:
    with opened(node.state_dir) as engine:
        return standing(engine).epoch


def _serial(node: Node) -> int:
    with opened(node.state_dir) as engine:
        return standing(engine).serial


def _entries(folder: Path) -> list[Entry]:
    with opened(folder) as engine, engine.begin() as connection:
        return list(changelog.entries(connection))


def test_snapshots(nodes: Cluster, tmp_path: Path) -> None:
    """A primary that dies while it makes a snapshot has it whole or not at all; a replica that
    dies while it starts from one starts from it again."""
    primary = nodes.node("primary", "pymirror-primary", [
        "--no-root-pypi", "--keep-entries", "0", "--keep-days", "0", "--root-passwd-file",
        str(_password_file(tmp_path)),
    ]).start()  # fmt: skip
    primary.put_index(INDEX, ROOT_PASSWORD, type="stage")
    attempts, trace = Attempts(primary), tmp_path / "trace"

    def make() -> None:
        attempts.upload(attempts.new())
        try:
            primary.request("POST", "/+log/snapshots", headers=basic("root", ROOT_PASSWORD))
        except (OSError, HTTPException):
            assert not primary.running or trace.exists()

    make()
    for point in recorded(primary, trace, make, 6):
        killed_at(primary, point, trace, make)
        primary.kill()
        check_folder(primary.state_dir, whole=True)
        primary.start()
        make()
        attempts.check(primary)
    make()
    make()
    eventually(lambda: primary.status()["minimum"] > 0, 10.0, "the log is compacted")
    _check_loading(nodes, primary, trace)


def _check_loading(nodes: Cluster, primary: Node, trace: Path) -> None:
    replica = nodes.node("replica", "pymirror-replica", ["--primary-url", primary.url])
    with under_strace(replica, trace):
        replica.start()
        replica.terminate()
    found = [p for p in points(trace, replica.state_dir) if p.call not in ("write", "pwrite64")]
    empty = trace.with_name("empty")
    empty.mkdir()
    for point in _spread(found, 5):
        copied(empty, replica.state_dir)
        with under_strace(replica, trace, point.inject("signal=SIGKILL")):
            replica.launch()
            deadline = time.monotonic() + 20
            while replica.running and time.monotonic() < deadline:
                time.sleep(0.05)
            replica.kill()
        replica.start()
        check_same_roots([primary, replica])
        replica.terminate()
        check_folder(replica.state_dir, whole=False)


def _password_file(folder: Path) -> Path:
    path = folder / "root-password"
    path.write_text(ROOT_PASSWORD)
    path.chmod(0o600)
    return path
