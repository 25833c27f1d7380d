"""What the crash tests do to nodes, and what must be true of a folder after each crash."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from hashlib import sha256
from http.client import HTTPException
from pathlib import Path

import orjson
from attrs import define, field
from sqlalchemy import Connection, create_engine, select

from cluster.log import changelog
from cluster.log.merkle import Frontier, leaf_hash
from cluster.state import schema
from cluster.state.apply import apply, digest
from cluster.state.rows import Touched
from tests.builders import Built, wheel
from tests.fakes import engine as memory
from tests.functional.helpers import ROOT_PASSWORD, upload
from tests.processes import Answer, Cluster, Node, basic, eventually, http
from tests.strace import WRITES, Point, attached, points, spread, traced

PYMIRROR = str(Path(sys.executable).with_name("pymirror"))
SOAK = "PYMIRROR_SOAK" in os.environ
"""Crash at every point, not only at some."""
INDEX = "root/dev"
KEEPING = tuple(call for call in WRITES if call != "write")


def check_folder(folder: Path, *, whole: bool) -> None:
    """R1, R3: log, tiles and state of a stopped node agree; R8, R9: if it is `whole`, each file
    that its entries name is here, with the bytes that they say.
    """
    made = create_engine(f"sqlite:///{folder / 'log.sqlite'}")
    try:
        with made.begin() as connection:
            _check_state(connection)
            if whole:
                _check_files(connection, folder)
    finally:
        made.dispose()


def _check_state(connection: Connection) -> None:
    start, frontier = changelog.minimum(connection), changelog.frontier(connection)
    entries = list(changelog.entries(connection, start))
    before = changelog.frontier(connection, start)
    assert before.extended(leaf_hash(entry.raw) for entry in entries) == frontier
    if start:
        return  # what came with a snapshot was compared with its digest when it came
    with memory() as fresh, fresh.begin() as replay:
        for entry in entries:
            apply(replay, entry, Touched())
        assert digest(replay) == digest(connection)
    assert frontier.size or frontier == Frontier()


def _check_files(connection: Connection, folder: Path) -> None:
    for body in connection.execute(select(schema.files.c.body)).scalars():
        named = orjson.loads(body)["hashes"]["sha256"]
        path = folder / "files" / "sha256" / named[:2] / named
        assert sha256(path.read_bytes()).hexdigest() == named


def temporaries(folder: Path) -> list[Path]:
    """What unfinished work left in a folder of a node that has started again since."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    unfinished = folder / "files" / "tmp"
    return [path for path in files if path.suffix == ".tmp" or path.parent == unfinished]


@define
class Attempts:
    """Uploads of ever new files to one index, and which of them were acknowledged."""

    node: Node
    acknowledged: list[Built] = field(factory=list)
    _number: int = 0

    def new(self) -> Built:
        """A file that nobody has uploaded yet."""
        self._number += 1
        return wheel("crash", f"1.{self._number}", size=70_000)

    def upload(self, built: Built) -> Answer | None:
        """Upload; None when the node died instead of answering."""
        try:
            answer = upload(self.node, INDEX, built)
        except (OSError, HTTPException):
            return None
        if answer.status == 200:
            self.acknowledged.append(built)
        return answer

    def check(self, node: Node, last: int = 3) -> None:
        """R5: what was acknowledged last is on its page, and comes with its bytes."""
        urls = node.file_urls(INDEX, "crash") if self.acknowledged else {}
        assert {built.filename for built in self.acknowledged} <= set(urls)
        for built in self.acknowledged[-last:]:
            assert http("GET", urls[built.filename]).body == built.data


def makes_snapshots(attempts: Attempts) -> Callable[[], None]:
    """Upload, make a snapshot, and wait until the log is cut behind the one before."""
    primary = attempts.node

    def is_cut() -> bool:
        try:
            status = primary.status()
        except (OSError, HTTPException):
            return not primary.running
        kept = [one["serial"] for one in status["snapshots"]]
        return kept[-1:] == [status["serial"]] and (len(kept) < 2 or status["minimum"] == kept[0])

    def make() -> None:
        attempts.upload(attempts.new())
        try:
            primary.request("POST", "/+log/snapshots", headers=basic("root", ROOT_PASSWORD))
        except (OSError, HTTPException):
            return  # it is dead; the kills are counted
        eventually(is_cut, 10.0, "a snapshot is made and the log is cut")

    return make


def recorded(node: Node, trace: Path, act: Callable[[], object], most: int) -> list[Point]:
    """The points at which to crash a node that does `act`."""
    with attached(node.pid, trace):
        act()
    found = points(trace, node.state_dir)
    assert found, trace.read_text()
    return found if SOAK else spread(found, most)


def killed_at(node: Node, point: Point, trace: Path, act: Callable[[], object]) -> bool:
    """Do `act` while a kill waits at a point; whether it came."""
    with attached(node.pid, trace, point.inject("signal=SIGKILL")):
        act()
        return _ended(node)


@contextmanager
def under_strace(node: Node, trace: Path, *options: str) -> Iterator[None]:
    """What starts a node in this block is traced."""
    normal = node._command
    node._command = traced(normal, trace, *options)
    try:
        yield
    finally:
        node._command = normal


def start_points(
    node: Node, trace: Path, name: str = "", calls: Sequence[str] = KEEPING
) -> list[Point]:
    """Where a node's start keeps something in its folder, or in a file there: it is started, and
    killed when it is ready.
    """
    with under_strace(node, trace):
        node.start().kill()
    return points(trace, node.state_dir / name, calls)


def start_killed_at(node: Node, point: Point, trace: Path) -> None:
    """Start a node that is killed at a point, and wait until it is."""
    with under_strace(node, trace, point.inject("signal=SIGKILL")):
        node.launch()
        eventually(lambda: not node.running, 30.0, f"the kill at {point}")


def ended_by(
    node: Node,
    injection: str,
    trace: Path,
    seconds: float = 20.0,
    is_settled: Callable[[Node], bool] | None = None,
) -> bool:
    """Start a node with an injection, and kill it when it is ready, or settled otherwise; whether
    it ended before.
    """
    settled = is_settled or is_ready
    with under_strace(node, trace, injection):
        try:
            node.launch()
            eventually(lambda: not node.running or settled(node), seconds, injection)
        finally:
            has_ended = not node.running
            node.kill()
    return has_ended


def is_ready(node: Node) -> bool:
    """Whether a node that may not listen yet is ready."""
    try:
        return node.get("/+ready").status == 200
    except (OSError, HTTPException):
        return False


def _ended(node: Node) -> bool:
    # Who was acknowledged may be killed a moment later, in what is done behind the answer.
    try:
        eventually(lambda: not node.running, 0.3, "the kill")
    except AssertionError:
        return False
    return True


def command(cluster: Cluster, name: str, folder: Path, *more: str) -> list[str]:
    """An operator's command on a folder."""
    return [
        PYMIRROR, name, "--state-dir", str(folder), "--secret-file", str(cluster.secret_file),
        "--yes", *more,
    ]  # fmt: skip


def run_traced(line: list[str], trace: Path, *options: str) -> int:
    """Run a command under strace; its exit code, negative when it was killed."""
    done = subprocess.run(traced(line, trace, *options), capture_output=True, timeout=60)
    return done.returncode


def copied(folder: Path, to: Path) -> Path:
    """A fresh copy of a stopped node's folder."""
    shutil.rmtree(to, ignore_errors=True)
    return Path(shutil.copytree(folder, to, symlinks=True))


def pair(nodes: Cluster, *primary_options: str) -> tuple[Node, Node]:
    """A primary with an index, and its replica."""
    primary = nodes.primary(None, *primary_options, root_password=ROOT_PASSWORD)
    primary.put_index(INDEX, ROOT_PASSWORD, type="stage")
    return primary, nodes.replica(primary)
