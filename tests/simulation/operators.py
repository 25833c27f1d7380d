"""What operators do: the commands' own code on the folders of stopped nodes."""

from __future__ import annotations

import shutil
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Engine

from cluster.errors import PymirrorError
from cluster.log.epochs import Trust
from cluster.promotion import demote as be_replica
from cluster.promotion import fork_of, opened, standing
from cluster.promotion import promote as be_primary
from cluster.state import queries
from primary.fence import Order
from tests.simulation.cluster import Member, Simulation
from tests.simulation.disk import PowerCut
from tests.simulation.history import EMPTY, Violation, head_of
from tests.simulation.network import Link
from tests.simulation.nodes import SECRET, START


@contextmanager
def stopped(sim: Simulation, member: Member) -> Iterator[Engine]:
    """A stopped node's folder, for an operator's command."""
    if member.running is not None:
        sim.kill(member)
    with opened(member.disk.root) as engine:
        yield engine


def best(sim: Simulation, without: Member | None) -> Member | None:
    """The member to be promoted: the furthest, if there is one, of those with a sound history.

    One that has not heard of the last epoch is no choice while that epoch's owner exists: it
    would begin the same epoch a second time.
    """
    found: list[tuple[bool, int, int, str]] = []
    for member in sim.members.values():
        root = sim.history.seen.get(member.name, EMPTY)
        if member.lost or member.restored or member is without or root == EMPTY:
            continue
        if sim.history.epoch(root) < sim.epoch and sim.owner() is not None:
            continue
        sound = not sim.history.is_tainted(root)
        found.append((sound, sim.history.epoch(root), sim.history.size(root), member.name))
    return sim.members[max(found)[-1]] if found else None


def promote(sim: Simulation, member: Member) -> None:
    """`pymirror promote`, and the start of the new primary."""
    with stopped(sim, member) as engine:
        epoch = head_of(engine)[0] + 1
        for other in sim.members.values():
            fencing = None if other.running is None else other.running.fencing
            if fencing is not None and sim.network.link(member.name, other.name) is Link.UP:
                quietly(fencing.learn(Order(epoch, begun=False)))
        former = [f"http://{name}" for name in sim.members if name != member.name]
        before = standing(engine)
        sim.begun[epoch] += 1
        try:
            moment = datetime.fromtimestamp(START + sim.clock.seconds(), UTC)
            now = be_primary(member.disk.root, engine, SECRET, former, moment)
        except PowerCut:
            pass
        else:
            sim.epoch = max(sim.epoch, now.epoch)
            sim.history.writers[now.epoch] = member.name
            member.is_primary = True
            sim.look(member, engine)
            assert before.epoch + 1 == now.epoch
    sim.settle()
    if member.is_primary:
        sim.history.check_acks(sim.history.seen[member.name])
    sim.start(member)


def quietly(work: Coroutine[Any, Any, object]) -> None:
    """Do work that waits for nothing; the power may go off meanwhile."""
    with suppress(StopIteration, PowerCut):
        work.send(None)


def demote(sim: Simulation, member: Member, owner: Member) -> None:
    """`pymirror demote`, and the start as a replica; a sound history makes it possible."""
    assert owner.running is not None
    with owner.running.engine.begin() as connection:
        starts = queries.starts(connection)
    tainted = member.restored or sim.history.is_tainted(sim.history.seen[member.name])
    try:
        with stopped(sim, member) as engine:
            mine = standing(engine)
            fork = fork_of(mine, starts, Trust(mine.log, mine.key, SECRET))
            be_replica(member.disk.root, engine, fork)
            member.is_primary = False
            if (member.disk.root / "log.sqlite").exists():
                sim.look(member, engine)
            else:  # put away: it starts from a snapshot
                sim.history.seen.pop(member.name)
    except PowerCut:
        pass
    except PymirrorError as error:
        if not tainted:
            raise Violation(f"{member.name} cannot be demoted: {error}") from error
        replace(sim, member)
        return
    sim.settle()
    sim.start(member)


def replace(sim: Simulation, member: Member) -> None:
    """Throw a machine's disk away, and let a new replica join in its place."""
    if member.running is not None:
        sim.kill(member)
    sim.kept |= sim.orphans(member)
    shutil.rmtree(member.disk.root)
    sim.history.seen.pop(member.name, None)
    member.joined += 1
    member.is_primary = member.lost = member.restored = False
    member.backup = None
    sim.add(member)
    sim.start(member)


def lose(sim: Simulation, member: Member) -> None:
    """A machine burns down."""
    sim.kill(member)
    member.lost = True


def restore(sim: Simulation, member: Member) -> None:
    """Bring a primary back as its backup has it, under the same address."""
    assert member.backup is not None
    if member.running is not None:
        sim.kill(member)
    member.disk.restore(member.backup)
    before = sim.history.seen.pop(member.name, None)
    with opened(member.disk.root) as engine:
        sim.look(member, engine)
    if sim.history.seen[member.name] != before:
        member.restored = sim.history.restored = True
    sim.start(member)
