"""A cluster on the hosts of a `tests.netlab.Lab`, and what is true of it after any fault.

The test itself, and the clients that it starts, are on the host `client`.
"""

from __future__ import annotations

import sqlite3
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from email.utils import parsedate_to_datetime
from hashlib import sha256
from pathlib import Path
from types import TracebackType
from typing import Any

import orjson

from cluster.cli.asking import NodeAnswers
from cluster.protocol import STATE_PATH
from tests.functional.helpers import ROOT_PASSWORD
from tests.functional.scenarios.load import Load
from tests.history import Action, Log, Logged, Outcome, judge
from tests.netlab import Lab
from tests.processes import Cluster, Node, eventually

INDEX = "root/dev"
PORT = 3141
HOSTS = ("client", "primary", "r1", "r2", "r3")
CONVERGED_SECONDS = 10.0


class World(Cluster):
    """Processes on the hosts of a lab; a node's name is its host's."""

    def __init__(
        self, directory: Path, lab: Lab, report: Callable[[str, object], None] = print
    ) -> None:
        super().__init__(directory)
        self.lab = lab
        self.load = Load()
        self.report = report
        self._disks: list[Path] = []
        self.prefix: dict[str, list[str]] = {}
        """What a node's program is started by, such as faketime, by the node's name."""

    def small_disk(self, name: str, size: int) -> None:
        """The folder of a node that is not made yet gets a disk of its own, of `size` bytes."""
        folder = self.directory / name
        folder.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
        subprocess.run(command, check=True)
        self._disks.append(folder)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.load.stop()
        self.load.history.save(self.directory / "history.jsonl")
        try:
            super().__exit__(kind, error, traceback)
        finally:
            for folder in self._disks:
                subprocess.run(["umount", str(folder)], check=True)

    def node(self, name: str, program: str, arguments: list[str], port: int | None = None) -> Node:
        """A node on the host of its name, not started; clients reach it from all hosts."""
        node = super().node(name, program, arguments, PORT)
        node.url = f"http://{self.lab.address(name)}:{PORT}"
        command = [a.replace(":interface=127.0.0.1", "") for a in node._command]
        node._command = self.lab.command(name, [*self.prefix.get(name, []), *command])
        return node

    def started(self, replicas: int = 3, *primary_options: str) -> tuple[Node, list[Node]]:
        """A primary with an index for uploads, and replicas that have caught up."""
        primary = self.primary(None, *primary_options, root_password=ROOT_PASSWORD)
        primary.put_index(INDEX, ROOT_PASSWORD, type="stage")
        nodes = [self.following(primary, f"r{n + 1}") for n in range(replicas)]
        for node in nodes:
            node.launch()
        for node in nodes:
            node.wait_ready()
        return primary, nodes

    def following(self, primary: Node, name: str, *options: str) -> Node:
        """A replica that is not started."""
        outside = f"http://{self.lab.address(name)}:{PORT}"
        arguments = ["--primary-url", primary.url, "--outside-url", outside, *options]
        return self.node(name, "pymirror-replica", arguments)

    def heal(self) -> float:
        """End all faults of the network; the moment of it."""
        self.lab.heal()
        return time.monotonic()

    def converged(
        self, nodes: Sequence[Node], since: float, seconds: float = CONVERGED_SECONDS
    ) -> None:
        """All nodes come to the first one's log within `seconds` of the moment `since`.

        Writes must have ended. Reports how long it took.
        """
        first, *others = nodes
        for other in others:
            left = max(0.1, seconds - (time.monotonic() - since))
            eventually(
                lambda other=other: standing(other) == standing(first),  # type: ignore[misc]
                left, f"{other.name} equals {first.name}",
            )  # fmt: skip
        self.report("converged_seconds", round(time.monotonic() - since, 2))

    def judged(self, nodes: Sequence[Node]) -> None:
        """What the clients saw is true of the nodes' logs, the first of which is the final one."""
        history = self.load.history
        final = entries_of(nodes[0])
        roots = [(*standing(node), state_root(self, node)) for node in nodes]
        logs = [log_of(final), *orphaned(self.directory, final)]
        found = judge(history.operations, logs, roots)
        assert found == [], "\n".join(f"{f.rule}: {f.what}" for f in found[:5])
        assert self.load.surprises == [], self.load.surprises[:3]
        self.report("operations", len(history.operations))
        self.report("acked", len(history.acked()))
        counts = Counter(o.action.value for o in history.operations if o.outcome is Outcome.OK)
        counts["min"] = sum(
            o.minimum is not None for o in history.operations if o.files is not None
        )
        self.report("did", dict(counts))


def standing(node: Node) -> tuple[object, ...]:
    """What two nodes with the same log agree in."""
    status = node.status()
    return status["log_identity"], status["epoch"], status["serial"], status["root"]


def state_root(world: World, node: Node) -> tuple[int, str]:
    """The serial of a node's index state, and one digest of all of it."""
    # Tokens expire by the node's clock, which may be another one than ours.
    date = parsedate_to_datetime(node.get("/+ready").headers["date"])
    asking = NodeAnswers(world.secret_file.read_bytes().strip(), "judge", date.timestamp)
    answer = asking.ask("GET", node.url + STATE_PATH)
    assert answer.status == 200, answer
    return answer.values["serial"], sha256(orjson.dumps(answer.values["buckets"])).hexdigest()


def entries_of(node: Node) -> list[dict[str, Any]]:
    """All entries of a node's log, read beside it."""
    uri = f"file:{node.state_dir / 'log.sqlite'}?mode=ro"
    with closing(sqlite3.connect(uri, uri=True)) as database:
        rows = database.execute("select entry from log order by serial").fetchall()
    return [orjson.loads(raw) for (raw,) in rows]


def orphaned(directory: Path, final: Sequence[dict[str, Any]]) -> Iterator[Log]:
    """The logs of nodes that had entries which were taken back, from the files with them."""
    for path in sorted(directory.glob("*/orphaned-*.log")):
        entries = [orjson.loads(line) for line in path.read_bytes().splitlines()]
        fork = entries[0]["serial"]
        yield log_of([*(e for e in final if e["serial"] < fork), *entries], fork)


def log_of(entries: Sequence[dict[str, Any]], fork: int | None = None) -> Log:
    """What a judge needs of a log."""
    return Log(list(_files(entries)), entries[-1]["serial"], fork)


def _files(entries: Sequence[dict[str, Any]]) -> Iterator[Logged]:
    known: dict[str, str] = {}
    for entry in entries:
        place = entry["serial"], entry.get("project", "")
        if entry["kind"] == "file.added":
            name, digest = entry["file"]["filename"], entry["file"]["hashes"]["sha256"]
            known[name] = digest
            yield Logged(*place, name, digest)
        elif entry["kind"] == "file.removed":
            yield Logged(*place, entry["filename"], None, Action.DELETE)
        elif entry["kind"] == "file.yanked":
            for name in entry["filenames"]:
                yield Logged(*place, name, known[name], Action.YANK)
