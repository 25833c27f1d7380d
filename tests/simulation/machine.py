"""Clients, operators and the weather, as rules of a hypothesis state machine."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from attrs import evolve
from hypothesis import note
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule
from twisted.internet.defer import Deferred

from cluster.log.changes import Change, Kind
from cluster.promotion import FENCED_FILE
from cluster.web.replies import Reply
from tests.simulation import operators
from tests.simulation.cluster import Member, Simulation
from tests.simulation.history import EMPTY, Violation
from tests.simulation.network import Link

NAMES = st.sampled_from(("n0", "n1", "n2", "n3"))
SECONDS = st.sampled_from((0.02, 0.1, 0.5, 2.0, 12.0, 45.0))
CONVERGE_SECONDS = 60.0


def _uploaded(filename: str, number: int) -> Change:
    file = {"filename": filename, "version": "1.0", "size": number,
            "hashes": {"sha256": f"{number:064x}"}}  # fmt: skip
    common = {"index": "root/dev", "project": "foo", "name": "Foo"}
    return Change(Kind.FILE_ADDED, {**common, "file": file})


def _mirrored(**more: Any) -> Change:
    return Change(Kind.MIRROR_PROJECT, {"index": "root/pypi", "project": "bar", **more})


_DEV = {"index": "root/dev", "type": "stage", "options": {"bases": ["root/pypi"]}}
WRITES: dict[str, list[Change]] = {
    "nothing more": [],
    "an index": [Change(Kind.INDEX_SET, _DEV)],
    "a file": [_uploaded("foo-1.0.tar.gz", 1)],
    "two files": [_uploaded("foo-1.0.zip", 2), _uploaded("foo-1.0-py3-none-any.whl", 3)],
    "a file less": [Change(Kind.FILE_REMOVED, {
        "index": "root/dev", "project": "foo", "filename": "foo-1.0.tar.gz"})],
    "a group": [_mirrored(part=n, parts=3, bare_added=[f"{n}.0"]) for n in (1, 2, 3)],
    "a list": [Change(Kind.MIRROR_LISTING, {
        "index": "root/pypi", "added": ["bar", "Baz"], "removed": ["qux"]})],
    "a user less": [Change(Kind.USER_REMOVED, {"user": "w1"})],
    "an index less": [Change(Kind.INDEX_REMOVED, {"index": "root/dev"})],
}  # fmt: skip


def flipped(reply: Reply, at: int) -> Reply:
    """One bit of the body is wrong."""
    body = bytearray(reply.body)
    if body:
        body[at % len(body)] ^= 1 << at % 8
    return evolve(reply, body=bytes(body))


SPOILS: dict[str, Callable[[Reply, int], Reply]] = {
    "flipped": flipped,
    "shorter": lambda reply, at: evolve(reply, body=reply.body[: at % (len(reply.body) + 1)]),
    "cut": lambda reply, at: evolve(reply, headers={**reply.headers, "X-Cut": "1"}),
    "web page": lambda reply, at: Reply(200, b"<html>Welcome!</html>", "text/html"),
    "lost page": lambda reply, at: Reply(404, b"no"),
    "broken": lambda reply, at: Reply(500, b"sorry"),
    "conflict": lambda reply, at: Reply(409, b"who are you?"),
    "gone": lambda reply, at: Reply(410, b"{}"),
    "other log": lambda reply, at: Reply(412, b"not yours"),
}


class Machine(RuleBasedStateMachine):
    """Four nodes; every rule may leave any of them in the middle of something."""

    def __init__(self) -> None:
        super().__init__()
        self.it: Simulation | None = None
        self.last: dict[tuple[str, str], Reply] = {}

    @property
    def sim(self) -> Simulation:
        """The simulated cluster."""
        assert self.it is not None
        return self.it

    def member(self, name: str) -> Member:
        """The machine of this name."""
        return self.sim.members[name]

    @initialize(seed=st.integers(0, 2**32), level=st.sampled_from((0, 1, 1, 2)),
                every=st.sampled_from((0, 0, 6)))  # fmt: skip
    def begin(self, seed: int, level: int, every: int) -> None:
        """A primary, three replicas."""
        self.it = Simulation(seed, level, every=every)

    @rule(name=NAMES, more=st.sampled_from(sorted(WRITES)), secret=st.booleans(), seconds=SECONDS)
    def write(self, name: str, more: str, secret: bool, seconds: float) -> None:
        """A client writes to whom it takes for the primary."""
        owner = self.sim.owner()
        member = self.member(name)
        if not member.is_primary and owner is not None:
            member = owner
        if member.running is not None and member.running.writer is not None:
            self.sim.write(member, WRITES[more], secret=secret)
        self.sim.run(seconds)

    @rule(seconds=SECONDS)
    def wait(self, seconds: float) -> None:
        """Time passes."""
        self.sim.run(seconds)

    @rule(one=NAMES, other=NAMES, link=st.sampled_from(Link), both=st.booleans())
    def disturb(self, one: str, other: str, link: Link, both: bool) -> None:
        """A way between two nodes goes bad, or well again."""
        self.sim.network.set_link(one, other, link)
        if both:
            self.sim.network.set_link(other, one, link)

    @rule()
    def heal(self) -> None:
        """The network is well again."""
        self.sim.network.heal()

    @rule(name=NAMES, source=NAMES, how=st.sampled_from(sorted(SPOILS)), at=st.integers(0, 2000))
    def spoil(self, name: str, source: str, how: str, at: int) -> None:
        """The next answer from one node to another is not what was sent."""
        self.sim.history.told_gone |= how == "gone"
        self.sim.network.spoiled[source, name] = lambda reply: SPOILS[how](reply, at)

    @rule(name=NAMES, power=st.booleans())
    def crash(self, name: str, power: bool) -> None:
        """A process or a machine dies."""
        member = self.member(name)
        if member.running is not None:
            (self.sim.power_cut if power else self.sim.kill)(member)

    @rule(name=NAMES, syncs=st.integers(1, 4))
    def crash_soon(self, name: str, syncs: int) -> None:
        """A machine dies in the middle of what it does next."""
        member = self.member(name)
        if not member.lost:
            member.disk.cut_after(syncs, self.sim.chance)

    @rule()
    def restart(self) -> None:
        """Whatever is down comes up."""
        for member in self.sim.members.values():
            if member.running is None and not member.lost:
                self.sim.start(member)

    @rule(name=NAMES, seconds=st.sampled_from((-7200.0, 3600.0, 2592000.0, 0.0)))
    def jump(self, name: str, seconds: float) -> None:
        """A wall clock is set."""
        self.member(name).skew = seconds

    @rule(planned=st.booleans())
    def promote(self, planned: bool) -> None:
        """The operator has enough of the primary, which may be fine for all he knows."""
        owner = self.sim.owner()
        if not planned and owner is not None and owner.running is not None:
            return
        best = operators.best(self.sim, owner)
        if best is not None and not best.is_primary:
            operators.promote(self.sim, best)

    @rule()
    def demote(self) -> None:
        """Old primaries become replicas of the new one."""
        owner = self.sim.owner()
        if owner is None or owner.running is None:
            return
        for member in self.sim.members.values():
            linked = self.sim.network.link(member.name, owner.name) is Link.UP
            if member.is_primary and member is not owner and not member.lost and linked:
                operators.demote(self.sim, member, owner)

    @precondition(lambda self: self.it is not None and self.sim.level >= 1)
    @rule()
    def burn(self) -> None:
        """The primary's disk is gone, in the middle of a write and whatever the network is like,
        and with level 2 that of the replica which has most; as long as no disk that a client
        relies on was lost before.
        """
        sim, owner = self.sim, self.sim.owner()
        if owner is None or any(m.lost or m.restored for m in sim.members.values()):
            return
        if owner.running is not None:
            sim.write(owner, [], secret=False)
            sim.run(0.1)
        seen, others = sim.history.seen, [name for name in sim.members if name != owner.name]
        others.sort(key=lambda name: sim.history.size(seen.get(name, EMPTY)))
        left = others if sim.level < 2 else others[:-1]
        # An epoch that nobody else has heard of would be begun a second time.
        known = any(sim.history.epoch(seen.get(name, EMPTY)) == sim.epoch for name in left)
        if known and sim.history.promised(others):
            for name in (owner.name, *others[len(left) :]):
                operators.lose(sim, sim.members[name])

    @rule()
    def replace(self) -> None:
        """A burnt machine is replaced by a new one."""
        for member in self.sim.members.values():
            if member.lost:
                operators.replace(self.sim, member)

    @rule()
    def back_up(self) -> None:
        """A copy of the primary's folder is put away."""
        owner = self.sim.owner()
        if owner is not None:
            owner.backup = owner.disk.after_kill()

    @rule()
    def restore(self) -> None:
        """The primary's folder is replaced by that copy (devpi's issue 1073)."""
        owner = self.sim.owner()
        if owner is not None and owner.backup is not None and self.sim.level <= 1:
            operators.restore(self.sim, owner)

    @rule()
    def compact(self) -> None:
        """The primary makes a snapshot, and removes what it covers."""
        owner = self.sim.owner()
        if owner is None or owner.running is None or owner.running.compaction is None:
            return
        running = owner.running
        assert running.snapshots is not None
        assert running.compaction is not None
        if running.fencing is not None and running.fencing.fence is None:
            operators.quietly(running.snapshots.make())
            operators.quietly(running.compaction.compact())
            self.sim.settle()

    @rule(name=NAMES, seconds=SECONDS)
    def read(self, name: str, seconds: float) -> None:
        """A reader that has seen a write asks a node for at least that serial (R7)."""
        running, acks = self.member(name).running, self.sim.history.acks
        if running is None or not acks:
            return
        ack, sim = acks[-1], self.sim

        async def reading() -> None:
            if not await running.position.reached(ack.serial, 5.0):
                return
            sim.check()
            root = sim.history.seen[running.name]
            claims = running.position.head.epoch >= ack.epoch
            sure = ack.level > 0 and not ack.late and not sim.history.restored
            if claims and sure and not sim.history.holds(root, ack.serial, ack.raw):
                raise Violation(f"R7: {running.name} claims serial {ack.serial} without it")

        Deferred.fromCoroutine(reading()).addErrback(sim._refused)
        self.sim.run(seconds)

    def teardown(self) -> None:
        """All faults end, operators do their work, and every node comes to one log (R12)."""
        if self.it is None:
            return
        try:
            self._converge()
        finally:
            for line in self.sim.trace:
                note(line)
            self.sim.close()

    def give_up(self) -> None:
        """End without judging any more."""
        self.sim.close()
        self.it = None

    def _converge(self) -> None:
        sim = self.sim
        sim.network.heal()
        for member in sim.members.values():
            member.disk.fails_at = None
            member.skew = 0.0
        owner = self._one_owner()
        self.replace()
        self.restart()
        sim.run(15.0)
        self.demote()
        sim.run(CONVERGE_SECONDS)
        root = sim.history.seen[owner.name]
        for member in sim.members.values():
            if sim.history.seen.get(member.name) != root:
                self._replace_odd(member)
        sim.run(CONVERGE_SECONDS)
        self._check_same(owner)

    def _one_owner(self) -> Member:
        sim = self.sim
        owner = sim.owner()
        # A promotion that died on its way has fenced the old primary, and can be repeated.
        fenced = owner is not None and (owner.disk.root / FENCED_FILE).exists()
        if owner is None or owner.restored or fenced:
            best = operators.best(sim, owner)
            if best is not None and not best.is_primary:
                operators.promote(sim, best)
                owner = best
        assert owner is not None
        return owner

    def _replace_odd(self, member: Member) -> None:
        """Only who followed a restored primary may need a new start."""
        if not self.sim.history.tainted or member.running is None:
            raise self._apart(member)
        operators.replace(self.sim, member)

    def _apart(self, member: Member) -> Violation:
        running, history = member.running, self.sim.history
        following: Any = (
            None
            if running is None or running.follower is None
            else (running.follower.following, running.follower._client.url)
        )
        size = history.size(history.seen.get(member.name, EMPTY))
        return Violation(f"R12: {member.name} at {size} does not converge: {following}")

    def _check_same(self, owner: Member) -> None:
        sim = self.sim
        root = sim.history.seen[owner.name]
        for member in sim.members.values():
            if sim.history.seen.get(member.name) != root:
                raise self._apart(member)
            sim.kept |= sim.orphans(member)
        sim.history.check_acks(root)
        # What only a disk had that is gone is lost, at level 0.
        if not sim.history.restored and not any(m.joined for m in sim.members.values()):
            sim.history.check_kept(root, sim.kept)
