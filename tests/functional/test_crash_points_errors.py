"""A disk that refuses: a node says so in its status, acknowledges nothing, serves what it has, and
has all again when the disk is mended.
"""

from __future__ import annotations

import subprocess
from functools import partial
from http.client import HTTPException
from pathlib import Path

import pytest

from cluster.promotion import opened, standing
from tests.builders import Built
from tests.functional.crashing import (
    INDEX,
    PYMIRROR,
    SOAK,
    Attempts,
    check_folder,
    command,
    copied,
    pair,
    run_traced,
)
from tests.functional.cutting import check_store, recorded_in
from tests.functional.helpers import (
    ROOT_PASSWORD,
    check_same_pages,
    check_same_roots,
    no_temporary_files,
)
from tests.processes import Answer, Cluster, Node, eventually, http
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


@pytest.mark.parametrize("error", ["EIO", "ENOSPC"])
def test_downloading(nodes: Cluster, tmp_path: Path, error: str) -> None:
    """A file that a replica's disk does not take is not given as whole, nor kept; it comes when
    the disk takes it again, without a restart."""
    nodes.allow_alarms = True
    primary, replica = pair(nodes)
    attempts, trace = Attempts(primary), tmp_path / "trace"

    def upload() -> Built:
        answer = attempts.upload(attempts.new())
        assert answer is not None
        serial = int(answer.headers["x-pymirror-serial"])
        # With its next poll it has made the entry durable: no fsync is left but of the file.
        eventually(
            lambda: primary.status()["replicas"][0]["position"] >= serial, 10.0, "it polls again"
        )
        return attempts.acknowledged[-1]

    for _ in range(2):
        wanted = upload()
        files, refused = replica.state_dir / "files", 0
        found = recorded_in(files, replica, trace, partial(_got, replica, wanted), 6)
    for point in found:
        wanted = upload()
        with attached(replica.pid, trace, point.inject(f"error={error}")):
            answer = _got(replica, wanted)
        is_hit = str(files) in "".join(
            line for line in trace.read_text().splitlines() if "(INJECTED)" in line
        )
        if answer is None or answer.status != 200:
            refused += 1
            assert answer is None or answer.status in (502, 503), (point, answer)
            assert answer is None or b"Traceback" not in answer.body, point
        else:
            assert answer.body == wanted.data, point
            assert not is_hit or point.call == "unlink", point
        again = _got(replica, wanted)
        assert again is not None
        assert (again.status, again.body) == (200, wanted.data), point
    assert refused >= len(found) // 2, "the points are not where the work is"
    no_temporary_files(replica)
    replica.kill()
    check_store(replica.state_dir)


def _got(replica: Node, built: Built) -> Answer | None:
    """A file as a client gets it; None for a connection that broke."""
    try:
        return http("GET", replica.file_urls(INDEX, built.name)[built.filename])
    except (OSError, HTTPException):
        return None


def _upkeep(nodes: Cluster) -> tuple[Node, Attempts]:
    """A primary that cuts its log behind the older of two snapshots, with an upload."""
    nodes.allow_alarms = True
    keep = ("--keep-entries", "0", "--keep-days", "0")
    primary = nodes.primary(None, *keep, root_password=ROOT_PASSWORD)
    primary.put_index(INDEX, ROOT_PASSWORD, type="stage")
    attempts = Attempts(primary)
    attempts.upload(attempts.new())
    return primary, attempts


def _make(primary: Node) -> tuple[int, str]:
    """`pymirror snapshot make`: its exit status, and what it says."""
    line = [PYMIRROR, "snapshot", "make", "--url", primary.url, "--password", ROOT_PASSWORD]
    done = subprocess.run(line, capture_output=True, text=True, timeout=30)
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize(("call", "error"), [("fsync", "EIO"), ("write", "ENOSPC")])
def test_snapshots(nodes: Cluster, tmp_path: Path, call: str, error: str) -> None:
    """A snapshot that the disk does not take is not there; the status and the command say why,
    writes go on, and the next one is made when the disk takes it."""
    primary, attempts = _upkeep(nodes)
    chunk = primary.state_dir / "snapshots" / ".making" / "00001"
    with attached(primary.pid, tmp_path / "trace", _refusing(call, error), only=chunk):
        code, said = _make(primary)
        assert code == 1, said
        assert "Traceback" not in said
        status = primary.status()
        assert status["snapshots"] == []
        assert status["snapshot_error"] in said
        assert str(tmp_path) not in status["snapshot_error"]
        assert attempts.upload(attempts.new()) is not None
    assert len(attempts.acknowledged) == 2
    assert _make(primary)[0] == 0
    status = primary.status()
    assert [one["serial"] for one in status["snapshots"]] == [status["serial"]]
    assert status["snapshot_error"] is None


@pytest.mark.parametrize("error", ["EIO", "ENOSPC"])
def test_compaction(nodes: Cluster, tmp_path: Path, error: str) -> None:
    """Entries that the disk does not let go stay; the status says why, and they go later."""
    primary, attempts = _upkeep(nodes)
    assert _make(primary)[0] == 0
    older = primary.status()["serial"]
    attempts.upload(attempts.new())
    log = primary.state_dir / "log.sqlite-wal"
    with attached(primary.pid, tmp_path / "trace", _refusing("pwrite64", error), only=log):
        assert _make(primary)[0] == 0
        told = eventually(lambda: primary.status()["compaction_error"], 20.0, "the status tells")
        assert "log.sqlite cannot be written" in told
        assert primary.status()["minimum"] == 0
    attempts.upload(attempts.new())
    assert _make(primary)[0] == 0
    eventually(lambda: primary.status()["minimum"] > older, 20.0, "the log is cut")
    assert primary.status()["compaction_error"] is None
    attempts.check(primary)
    primary.kill()
    check_folder(primary.state_dir, whole=True)
