"""A simulated cluster: its members with their disks, and what operators and the weather do."""

from __future__ import annotations

import math
import random
import shutil
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from tempfile import mkdtemp
from typing import Any, cast
from uuid import UUID

from attrs import define, field
from sqlalchemy import Engine
from twisted.internet.task import Clock
from twisted.logger import globalLogPublisher
from twisted.python.failure import Failure

from cluster.errors import PymirrorError
from cluster.log.changes import Change, Kind
from cluster.log.checkpoint import Checkpoint, LogSigner
from cluster.log.merkle import Frontier
from primary.fence import Fence, Why
from primary.writer import Written
from tests.simulation.disk import Disk, Image, PowerCut, watched
from tests.simulation.history import Ack, History, Violation
from tests.simulation.network import Network
from tests.simulation.nodes import Running, World

_BUSY, _BUSY_EACH_SECOND = 400, 100
FOLDERS = Path("/dev/shm") if Path("/dev/shm").is_dir() else None  # noqa: S108 - as fast as can be


@define(eq=False)
class Member:
    """A machine of the cluster, whether its node runs or not."""

    name: str
    disk: Disk
    is_primary: bool = False
    skew: float = 0.0
    running: Running | None = None
    lost: bool = False
    restored: bool = False
    backup: Image | None = None
    joined: int = 0

    @property
    def uuid(self) -> str:
        """The node's uuid, the same in each run."""
        return str(UUID(int=int(self.name[1:]) + 1000 * (self.joined + 1)))


@define(eq=False)
class Simulation:
    """The whole of it; `level` is how many replicas a write is acknowledged by."""

    seed: int
    level: int = 1
    count: int = 4
    every: int = 0
    clock: Clock = field(factory=Clock)
    history: History = field(factory=History)
    members: dict[str, Member] = field(factory=dict)
    network: Network = field(init=False)
    world: World = field(init=False)
    chance: random.Random = field(init=False)
    epoch: int = 1
    """The highest epoch that any operator has begun."""
    begun: Counter[int] = field(factory=Counter)
    """How often operators have begun each epoch."""
    written: int = 0
    kept: set[bytes] = field(factory=set)
    """What was on disks that operators have thrown away."""
    trace: list[str] = field(factory=list)
    _violation: BaseException | None = None
    _stack: ExitStack = field(factory=ExitStack)

    def __attrs_post_init__(self) -> None:
        self.chance = random.Random(self.seed)
        self.network = Network(self.clock, random.Random(self.seed + 1))
        self.world = World(
            self.clock, self.network, random.Random(self.seed + 2), self.level, self._committed,
            self._surprised, self.every,
        )  # fmt: skip
        root = Path(mkdtemp(prefix="pymirror-simulation-", dir=FOLDERS))
        self._stack.callback(shutil.rmtree, root)
        self._stack.callback(self.history.close)
        self._stack.enter_context(watched(self._disks))
        self._stack.enter_context(self._watched_signers())
        self._stack.enter_context(self._watched_log())
        for number in range(self.count):
            self.add(Member(f"n{number}", Disk(root / f"n{number}")))
        self.members["n0"].is_primary = True
        self.history.writers[self.epoch] = "n0"
        for member in self.members.values():
            self.start(member)

    def close(self) -> None:
        """End every node, and remove what they wrote."""
        for member in self.members.values():
            if member.running is not None:
                member.running.die()
        self._stack.close()

    def add(self, member: Member) -> None:
        """A machine with an empty disk."""
        self.members[member.name] = member
        member.disk.root.mkdir()
        (member.disk.root / "uuid").write_text(member.uuid)
        member.disk.settle()

    def _disks(self) -> Iterator[Disk]:
        return (member.disk for member in self.members.values())

    # What is watched while nodes work

    def _committed(
        self, node: Running, before: Frontier, entries: list[bytes], after: Frontier
    ) -> None:
        assert node.fencing is not None
        with self._judging():
            if node.fencing.fence is not None:
                raise Violation(f"R6: {node.name} writes although it is fenced")
            taint = self.members[node.name].restored
            self.history.committed(node.name, before, list(entries), taint=taint)

    def _surprised(self, what: str, failure: Failure) -> None:
        if failure.check(PowerCut) is None:
            self._violation = self._violation or failure.value
            self.trace.append(f"{what}: {failure.getTraceback()}")

    @contextmanager
    def _judging(self) -> Iterator[None]:
        # Nodes are robust against listeners that fail; the judge's word must not get lost there.
        try:
            yield
        except Violation as violation:
            self._violation = self._violation or violation
            raise

    @contextmanager
    def _watched_signers(self) -> Iterator[None]:
        sign = LogSigner.sign

        def watching(signer: Any, checkpoint: Checkpoint) -> bytes:
            key = signer.private.public_key().public_bytes_raw()
            with self._judging():
                taint = bool(self.history.tainted)
                self.history.signs(key, checkpoint.size, checkpoint.root, taint=taint)
            return sign(signer, checkpoint)

        cast(Any, LogSigner).sign = watching
        try:
            yield
        finally:
            cast(Any, LogSigner).sign = sign

    @contextmanager
    def _watched_log(self) -> Iterator[None]:
        def observe(event: Any) -> None:
            failure = event.get("log_failure")
            if failure is not None:
                self._surprised(f"logged at {self.clock.seconds()}", failure)

        globalLogPublisher.addObserver(cast(Any, observe))
        try:
            yield
        finally:
            globalLogPublisher.removeObserver(cast(Any, observe))

    # Time

    def run(self, seconds: float) -> None:
        """Let time pass, event by event, and look at the nodes after each."""
        until, events = self.clock.seconds() + seconds, 0
        while True:
            calls = [cast(Any, call).getTime() for call in self.clock.getDelayedCalls()]
            due = min(calls, default=math.inf)
            if due > until:
                break
            events += 1
            if events > _BUSY + _BUSY_EACH_SECOND * seconds:
                raise Violation(f"{events} events within {seconds} s: somebody runs in a circle")
            with suppress(PowerCut):
                # Not advanced by the difference: rounded, it may fall short of the call for ever.
                self.clock.rightNow = max(due, self.clock.rightNow)
                self.clock.advance(0.0)
            self.settle()
        self.clock.rightNow = until

    def settle(self) -> None:
        """End nodes whose power went off, and judge."""
        for member in self.members.values():
            if member.disk.image is not None:
                self._crash(member, member.disk.image)
        self.check()

    def check(self) -> None:
        """All that must hold at any time."""
        if self._violation is not None:
            raise self._violation
        for member in self.members.values():
            running = member.running
            fencing = None if running is None else running.fencing
            if fencing is not None and fencing.fence is not None:
                self._check_fence(member.name, fencing.fence)
            if running is None or running.position.head.root == self.history.seen.get(member.name):
                continue
            self.look(member, running.engine)

    def _check_fence(self, name: str, fence: Fence) -> None:
        """No primary takes itself for a restored one, or for one of two, without a reason."""
        if fence.why is Why.RESTORED and not self.history.restored:
            raise Violation(f"{name} believes that it was restored: {fence.note}")
        if fence.why is Why.SPLIT and self.begun[fence.epoch] < 2:
            raise Violation(f"{name} believes that epoch {fence.epoch} has two owners")

    def look(self, member: Member, engine: Engine) -> None:
        """Judge one node's log and state."""
        self.history.look(member.name, engine, member.disk.root, writes=member.is_primary)

    # Crashes

    def start(self, member: Member) -> None:
        """Start a node that is not running."""
        assert member.running is None
        urls = [f"http://{name}" for name in self.members if name != member.name]
        running = Running(
            member.name, member.uuid, self.world, member.disk, urls, lambda: member.skew
        )
        member.running = running
        with suppress(PowerCut):
            running.start(is_primary=member.is_primary)
        self.settle()

    def kill(self, member: Member) -> None:
        """SIGKILL."""
        self._crash(member, member.disk.after_kill())

    def power_cut(self, member: Member) -> None:
        """The machine goes off."""
        self._crash(member, member.disk.after_power_cut(self.chance))

    def _crash(self, member: Member, image: Image) -> None:
        if member.running is not None:
            member.running.die()
            member.running = None
        member.disk.restore(image)

    # Clients

    def write(self, member: Member, more: list[Change], *, secret: bool) -> None:
        """A client sends a write to a primary, and waits for the answer for ever."""
        running = member.running
        assert running is not None
        self.written += 1
        payload: dict[str, Any] = {"user": f"w{self.written}", "options": {}}
        try:
            if secret:
                payload["password"] = running.blobs.add(b"hash %d" % self.written)
            done = running.write([Change(Kind.USER_SET, payload), *more])
        except PowerCut:
            self.settle()
            return
        done.addCallback(lambda written: self._acknowledged(running, written))
        done.addErrback(self._refused)
        self.settle()

    def _refused(self, failure: Failure) -> None:
        if failure.check(Violation):
            self._violation = self._violation or failure.value
        elif failure.check(PymirrorError, PowerCut) is None:
            self._surprised("a write", failure)

    def _acknowledged(self, running: Running, written: Written) -> None:
        assert running.writer is not None
        for member in self.members.values():
            if member.running is not None:
                self.look(member, member.running.engine)
        root = self.history.seen[running.name]
        step = next(s for _, s in self.history.back(root) if s.frontier.size == written.serial)
        late = step.epoch < self.epoch
        ack = Ack(running.name, step.epoch, written.serial, step.raw, self.level, late)
        nodes = [name for name, member in self.members.items() if not member.lost]
        self.history.acknowledged(ack, nodes)

    def owner(self) -> Member | None:
        """The member whose epoch is the last that was begun; None if its disk is gone."""
        writer = self.history.writers.get(self.epoch)
        member = self.members.get(writer or "")
        return None if member is None or member.lost or not member.is_primary else member

    def orphans(self, member: Member) -> set[bytes]:
        """The entries in a member's files of orphans."""
        files = member.disk.root.glob("orphaned-*.log")
        return {line for path in files for line in path.read_bytes().splitlines()}
