"""The judge: every log that was ever seen, what was acknowledged, and the invariants over them.

Logs form a tree, because two primaries can go on from one root: each root names one history,
entry by entry, so a node's whole log is known by its root. Names of invariants (R1 …) are those
that docs/architecture.md lists.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from hashlib import sha256
from pathlib import Path
from typing import Any

import orjson
from attrs import define, field, frozen
from sqlalchemy import Connection, Engine, select

from cluster.log import changelog
from cluster.log.changes import Kind, decode
from cluster.log.merkle import Frontier, leaf_hash
from cluster.state import queries, schema
from cluster.state.apply import apply, digest
from cluster.state.database import writing
from cluster.state.rows import Touched
from tests.fakes import engine as memory

EMPTY = Frontier().root
_ORACLES = 4


class Violation(AssertionError):
    """An invariant does not hold."""


@frozen
class Step:
    """An entry in the tree of logs; `starts` is whether it starts an epoch."""

    frontier: Frontier
    parent: bytes
    epoch: int
    raw: bytes
    starts: bool


@frozen
class Ack:
    """A write that its client was told is done; `late` when another primary was promoted before."""

    node: str
    epoch: int
    serial: int
    raw: bytes
    level: int
    late: bool


@define(eq=False)
class Oracle:
    """A database in memory that replays logs from their start."""

    engine: Engine
    root: bytes = EMPTY


@define(eq=False)
class History:
    """What has happened so far, over all nodes."""

    steps: dict[bytes, Step] = field(factory=dict)
    seen: dict[str, bytes] = field(factory=dict)
    """The root at which each node was when it was looked at last."""
    writers: dict[int, str] = field(factory=dict)
    tainted: set[bytes] = field(factory=set)
    """Entries written by a primary that was restored from a backup."""
    restored: bool = False
    """Whether a primary has lost some of its past: then also blobs that entries name are gone."""
    told_gone: bool = False
    """Whether somebody was told 410, by whom it may believe, of a blob that there is."""
    acks: list[Ack] = field(factory=list)
    signed: dict[tuple[bytes, int], bytes] = field(factory=dict)
    looks: int = 0
    _oracles: list[Oracle] = field(factory=list)
    _digests: dict[bytes, str] = field(factory=dict)
    _stack: ExitStack = field(factory=ExitStack)

    def close(self) -> None:
        """Let the oracles go."""
        self._stack.close()

    def step(self, root: bytes) -> Step | None:
        """The last entry of the log with this root; None for the empty log."""
        if root == EMPTY:
            return None
        if root not in self.steps:
            raise Violation("R3: a log has a root that no primary ever wrote")
        return self.steps[root]

    def size(self, root: bytes) -> int:
        """How many entries the log with this root has."""
        step = self.step(root)
        return 0 if step is None else step.frontier.size

    def epoch(self, root: bytes) -> int:
        """The last epoch of the log with this root."""
        step = self.step(root)
        return 0 if step is None else step.epoch

    def back(self, root: bytes) -> Iterator[tuple[bytes, Step]]:
        """The entries of a log, last first."""
        step = self.step(root)
        while step is not None:
            yield root, step
            root = step.parent
            step = self.step(root)

    def holds(self, root: bytes, serial: int, raw: bytes) -> bool:
        """Whether the log with this root has an entry at a serial."""
        return any(s.raw == raw for _, s in self.back(root) if s.frontier.size == serial)

    def is_tainted(self, root: bytes) -> bool:
        """Whether a log has entries of a restored primary."""
        return any(step.raw in self.tainted for _, step in self.back(root))

    def committed(self, node: str, before: Frontier, entries: list[bytes], *, taint: bool) -> None:
        """A primary has committed entries; R6: no other has in its epoch."""
        self.extend(before, entries)
        for raw in entries:
            epoch = decode(raw).epoch
            if self.writers.setdefault(epoch, node) != node:
                raise Violation(f"R6: {node} and {self.writers[epoch]} write in epoch {epoch}")
            if taint:
                self.tainted.add(raw)

    def extend(self, at: Frontier, entries: list[bytes]) -> bytes:
        """Note that a log goes on with these entries; its root then. R2: in order, no gap."""
        parent = self.step(at.root)
        epoch = 0 if parent is None else parent.epoch
        for raw in entries:
            entry = decode(raw)
            starts = entry.kind is Kind.EPOCH_STARTED
            if entry.serial != at.size + 1 or entry.epoch != epoch + starts:
                raise Violation(f"R2: entry {entry.serial} of epoch {entry.epoch} behind "
                                f"{at.size} of epoch {epoch}")  # fmt: skip
            after = at.extended([leaf_hash(raw)])
            self.steps.setdefault(after.root, Step(after, at.root, entry.epoch, raw, starts))
            at, epoch = after, entry.epoch
        return at.root

    def signs(self, key: bytes, size: int, root: bytes, *, taint: bool) -> None:
        """R4: a key never signs two roots for one size."""
        if self.signed.setdefault((key, size), root) != root and not taint:
            raise Violation(f"R4: two signed heads of {size} entries differ")

    def look(self, name: str, engine: Engine, folder: Path, *, writes: bool = False) -> None:
        """Check a node's log and state, if they have changed since the last look.

        Only who `writes` can have entries that nobody has seen.
        """
        with engine.begin() as connection:
            root = changelog.frontier(connection).root
            if self.seen.get(name) == root:
                return
            self.looks += 1
            self._check_log(name, connection, root, writes)
            if digest(connection) != self._replayed(root):
                raise Violation(f"R1: the state of {name} is not what its log says")
            if not self.restored and not self.told_gone:
                _check_blobs(name, connection, folder)
        self._check_way(name, self.seen.get(name, EMPTY), root)
        self.seen[name] = root

    def _check_log(self, name: str, connection: Connection, root: bytes, writes: bool) -> None:
        start = changelog.minimum(connection)
        known = self.seen.get(name, EMPTY)
        size = self.size(known)
        reaches = start <= size <= changelog.size(connection)
        if reaches and changelog.frontier(connection, size).root == known:
            start = size
        at = changelog.frontier(connection, start)
        raw = [entry.raw for entry in changelog.entries(connection, start)]
        known_steps = len(self.steps)
        if self.extend(at, raw) != root or (len(self.steps) != known_steps and not writes):
            raise Violation(f"R3: the log of {name} is none that a primary wrote")

    def _check_way(self, name: str, before: bytes, after: bytes) -> None:
        """R11: a log only grows, but for an end that a later epoch has replaced."""
        behind = {root for root, _ in self.back(after)} | {EMPTY}
        common = next((root for root, _ in self.back(before) if root in behind), EMPTY)
        if common == before:
            return
        epoch = self.epoch(before)
        forks = (s for s in self.steps.values() if s.parent == common and s.starts)
        replaced = any(fork.epoch > epoch for fork in forks) or self._is_split(common, before)
        if common == EMPTY or not replaced:
            raise Violation(
                f"R11: {name} went from {self.size(before)} back to {self.size(common)}, and no "
                f"epoch after {epoch} began there"
            )
        if after != common and self.epoch(after) <= epoch:
            raise Violation(f"R11: {name} left epoch {epoch} for another history of it")

    def _is_split(self, common: bytes, before: bytes) -> bool:
        """Whether an epoch behind a place was begun twice, and a later one in the other log."""
        lost = next(s for _, s in self.back(before) if s.parent == common)
        last = self.epoch(before)
        for root, step in self.steps.items():
            if step.starts and step.epoch > last:
                log = dict(self.back(root))
                twice = any(s.starts and s.epoch <= last for s in log.values() if s.parent not in
                            dict(self.back(common)))  # fmt: skip
                if (common in log or common == EMPTY) and lost.frontier.root not in log and twice:
                    return True
        return False

    def _replayed(self, root: bytes) -> str:
        """The digest of the state that a replay of a log gives."""
        if root not in self._digests:
            todo = []
            oracle = None
            for at, step in self.back(root):
                oracle = next((one for one in self._oracles if one.root == at), None)
                if oracle is not None:
                    break
                todo.append(step.raw)
            oracle = oracle or self._fresh()
            with writing(oracle.engine) as connection:
                for raw in reversed(todo):
                    apply(connection, decode(raw), Touched())
                self._digests[root] = digest(connection)
            oracle.root = root
        return self._digests[root]

    def _fresh(self) -> Oracle:
        oracle = Oracle(self._stack.enter_context(memory()))
        self._oracles = [*self._oracles[-_ORACLES:], oracle]
        return oracle

    def acknowledged(self, ack: Ack, nodes: list[str]) -> None:
        """A client hears that its write is done; R5: as many others have it as it asked for."""
        holders = [n for n in nodes if n != ack.node and self._has(n, ack)]
        if len(holders) < ack.level:
            raise Violation(f"R5: serial {ack.serial} was acknowledged at level {ack.level}, and "
                            f"only {holders} have it beside {ack.node}")  # fmt: skip
        self.acks.append(ack)

    def promised(self, nodes: list[str]) -> bool:
        """Whether so many of these nodes have each acknowledged write as its client asked for."""
        return all(
            ack.late or sum(self._has(node, ack) for node in nodes) >= ack.level
            for ack in self.acks
        )  # fmt: skip

    def _has(self, name: str, ack: Ack) -> bool:
        return self.holds(self.seen.get(name, EMPTY), ack.serial, ack.raw)

    def check_acks(self, root: bytes) -> None:
        """R5: what was acknowledged at a level is in the log that goes on."""
        log = {step.frontier.size: step.raw for _, step in self.back(root)}
        for ack in self.acks:
            kept = log.get(ack.serial) == ack.raw
            if ack.level and not kept and not ack.late and ack.raw not in self.tainted:
                raise Violation(f"R5: serial {ack.serial} of epoch {ack.epoch}, acknowledged at "
                                f"level {ack.level}, is lost")  # fmt: skip

    def check_kept(self, root: bytes, orphans: set[bytes]) -> None:
        """Nothing that was acknowledged, at any level, is dropped silently."""
        log = {step.frontier.size: step.raw for _, step in self.back(root)}
        for ack in self.acks:
            if log.get(ack.serial) != ack.raw and ack.raw not in orphans | self.tainted:
                raise Violation(f"serial {ack.serial} of epoch {ack.epoch}, acknowledged by "
                                f"{ack.node}, is in no log and no file of orphans")  # fmt: skip


def _check_blobs(name: str, connection: Connection, folder: Path) -> None:
    """R8: the node-only blobs that users and indexes name are here, whole."""
    bodies = connection.execute(select(schema.users.c.body)).scalars()
    named: list[Any] = [orjson.loads(body).get("password") for body in bodies]
    for blob in filter(None, named):
        path = folder / "secrets" / blob
        if not path.exists() or sha256(path.read_bytes()).hexdigest() != blob:
            raise Violation(f"R8: {name} lacks the blob {blob} that its state names")


def head_of(engine: Engine) -> tuple[int, int]:
    """The epoch and size of a node's log: which of two is further."""
    with engine.begin() as connection:
        head = queries.head(connection)
    return head.epoch, head.serial
