"""N nodes in one process, thousands of faults: what replication promises holds at every step.

A number is a run. What fails is printed as the lines of a test, made short, and becomes one here.
``PYMIRROR_SIMULATION_SECONDS`` plays fresh runs for so long (``make soak``);
``PYMIRROR_SIMULATION_SEED`` plays one walk.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import combinations

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis.stateful import run_state_machine_as_test
from sqlalchemy import Connection
from twisted.internet.defer import Deferred

from cluster.log.changes import Entry, Kind
from cluster.log.checkpoint import Checkpoint, LogSigner
from cluster.protocol import EVIDENCE_PATH
from cluster.state.apply import apply
from cluster.state.rows import Touched
from primary.acks import Acks
from primary.bootstrap import load_key
from primary.fencing import Fencing
from replica import taking
from replica.primary_client import Answer
from tests.simulation import operators
from tests.simulation.history import Violation
from tests.simulation.machine import Machine
from tests.simulation.network import Link
from tests.simulation.walk import Step, smallest, steps, walk, written

WALKS = 25
"""How many walks each of the tests below takes."""
FOUND = (65, 119, 2235, 5132, 7048)
"""Walks that once failed, beside those that have tests of their own below."""
HYPOTHESIS_SEEDS = (1, 2)
SECONDS = float(os.environ.get("PYMIRROR_SIMULATION_SECONDS", "0"))

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900 + SECONDS)]


def go(number: int) -> None:
    """One walk; where it fails, a short one that fails in the same way is shown."""
    try:
        walk(steps(number))
    except Exception as error:
        kind = (type(error), str(error)[:3])

        def fails(taken: list[Step]) -> bool:
            try:
                walk(taken)
            except Exception as other:
                return (type(other), str(other)[:3]) == kind
            return False

        error.add_note(f"PYMIRROR_SIMULATION_SEED={number}; the shortest that was found:")
        error.add_note(written(smallest(steps(number), fails)))
        raise


@pytest.mark.parametrize("first", range(0, 4 * WALKS, WALKS))
def test_fixed_walks(first: int) -> None:
    """R1-R8 and R10-R12 hold in the walks that everybody takes."""
    for number in range(first, first + WALKS):
        go(number)


@pytest.mark.parametrize("number", FOUND)
def test_walks_that_failed(number: int) -> None:
    """They hold where they once did not: a false 410, a compacted old primary, a blob that was
    lost before a promotion, a false 404 for a blob."""
    go(number)


def test_fresh_walks() -> None:
    """They hold in walks that nobody has taken before, for as long as is wanted."""
    given = os.environ.get("PYMIRROR_SIMULATION_SEED")
    if given is not None:
        go(int(given))
        return
    first = random.SystemRandom().randrange(1 << 32)
    print(f"fresh walks from {first}")
    until, number = time.monotonic() + SECONDS, first
    while number < first + WALKS or time.monotonic() < until:
        go(number)
        number += 1


@pytest.mark.parametrize("number", [*HYPOTHESIS_SEEDS, None])
def test_state_machine(number: int | None) -> None:
    """They hold in what hypothesis thinks of, which then finds the smallest run that fails."""
    chosen = random.SystemRandom().randrange(1 << 32) if number is None else number
    print(f"hypothesis seed {chosen}")
    made = settings(
        max_examples=25, stateful_step_count=25, deadline=None, database=None,
        suppress_health_check=list(HealthCheck), phases=[Phase.generate, Phase.shrink],
        report_multiple_bugs=False,
    )  # fmt: skip

    class Seeded(Machine):
        pass

    seed(chosen)(Seeded)
    run_state_machine_as_test(Seeded, settings=made)


@contextmanager
def played(seed: int = 0, level: int = 1, every: int = 0) -> Iterator[Machine]:
    """A machine whose rules a test calls itself; its nodes converge at the end."""
    machine = Machine()
    machine.begin(seed, level, every)
    try:
        yield machine
    except BaseException:
        machine.sim.close()
        raise
    machine.teardown()


# What the simulation has found


def test_compaction_inside_a_group() -> None:
    """The search for entries that are old enough may come upon the middle of a group."""
    with played() as it:
        for _ in range(6):
            it.write("n0", "a group", True, 0.5)
            it.compact()
        running = it.member("n0").running
        assert running is not None
        assert running.snapshots is not None
        assert running.snapshots.minimum > 0


@pytest.mark.parametrize("number", range(8))
def test_the_first_blob_survives_a_power_cut(number: int) -> None:
    """The folder of node-only blobs is durable before the first entry that names one."""
    with played(number) as it:
        it.write("n0", "nothing more", True, 2.0)
        for name in ("n0", "n1"):
            it.crash(name, True)
        it.restart()
        it.wait(2.0)


def test_one_false_410_is_not_believed_for_ever() -> None:
    """A replica that was told once that entries are gone asks again when no snapshot helps."""
    with played(level=0) as it:
        it.wait(2.0)
        it.spoil(name="n1", source="n0", how="gone", at=0)
        it.write("n0", "an index", False, 12.0)


def test_a_compacted_primary_can_be_demoted() -> None:
    """A folder whose log cannot be taken back starts again from a snapshot, and what it alone had
    is in a file."""
    with played(seed=28, level=0, every=6) as it:
        it.compact()
        it.write("n1", "a file", True, 2.0)
        it.compact()
        it.crash_soon("n0", 4)
        it.write("n1", "a group", False, 0.02)
        it.write("n3", "two files", True, 12.0)
        it.promote(planned=True)


def test_an_orphaned_end_that_the_new_log_does_not_reach_back_to() -> None:
    """Replicas that hold more of the old epoch than the new primary had take it back also when
    the new log begins behind that: they start from its snapshot."""
    with played(seed=5132, level=2, every=6) as it:
        it.crash("n2", True)
        it.write("n1", "an index", True, 0.5)
        it.write("n3", "a group", True, 0.02)
        it.crash("n0", False)
        it.promote(planned=True)
        it.write("n2", "a group", True, 0.1)
        it.write("n2", "two files", False, 0.02)
        it.compact()


# What operators and strangers can do to primaries


def why(it: Machine, name: str) -> str | None:
    """Why a primary takes no more writes."""
    running = it.member(name).running
    assert running is not None
    assert running.fencing is not None
    return None if running.fencing.fence is None else running.fencing.fence.why.value


def test_two_owners_of_an_epoch() -> None:
    """Two replicas are promoted that see nobody: the primary before tells the second of the
    first, who hears it when they meet; the one that is promoted again takes all others along."""
    with played(level=0) as it:
        it.write("n0", "a file", True, 2.0)
        it.crash("n0", False)
        for one, other in combinations(("n0", "n1", "n2", "n3"), 2):
            it.disturb(one, other, Link.CUT, True)
        for name in ("n1", "n2"):
            operators.promote(it.sim, it.member(name))
        it.wait(12.0)
        assert (why(it, "n1"), why(it, "n2")) == (None, None)
        it.restart()
        it.disturb("n0", "n1", Link.UP, True)
        it.wait(12.0)
        assert (why(it, "n0"), why(it, "n1")) == ("superseded", None)
        it.disturb("n0", "n2", Link.UP, True)
        it.wait(12.0)
        assert (why(it, "n1"), why(it, "n2")) == (None, "split")
        it.heal()
        it.wait(12.0)
        assert (why(it, "n1"), why(it, "n2")) == ("split", "split")
        it.crash("n1", True)
        it.restart()
        assert why(it, "n1") == "split"
        operators.promote(it.sim, it.member("n1"))
        it.wait(12.0)
        assert (why(it, "n1"), why(it, "n2")) == (None, "superseded")
        it.write("n1", "an index", False, 2.0)


def shown(it: Machine, note: bytes) -> int:
    """What the primary n0 answers when n1 hands in a checkpoint."""
    running = it.member("n1").running
    assert running is not None
    assert running.follower is not None
    client = running.follower._client
    answers: list[Answer] = []
    asked = client.ask("POST", EVIDENCE_PATH, client.headers(), note)
    Deferred.fromCoroutine(asked).addCallback(answers.append)
    it.wait(1.0)
    return answers[0].status


def test_only_its_own_signature_stops_a_primary() -> None:
    """Checkpoints that others have signed, or of its own log, change nothing; one that it has
    signed and does not have stops it for good."""
    with played(level=0) as it:
        it.write("n0", "a file", True, 2.0)
        running, other = it.member("n0").running, it.member("n1").running
        assert running is not None
        assert other is not None
        assert other.follower is not None
        assert other.follower.note is not None
        good, size = other.follower.note, running.position.serial
        name = good.decode().partition("\n")[0]
        beyond = Checkpoint(name, size + 9, bytes(32))
        own = LogSigner(name, load_key(running.folder))
        stranger = LogSigner(name, Ed25519PrivateKey.generate())
        forged = good.replace(b"\n%d\n" % size, b"\n%d\n" % (size + 9))
        for lie in (b"", b"no note", forged, stranger.sign(beyond)):
            assert shown(it, lie) == 400
        assert shown(it, good) == 200
        assert why(it, "n0") is None
        it.sim.history.restored = True
        assert shown(it, own.sign(beyond)) == 200
        assert why(it, "n0") == "restored"
        it.crash("n0", True)
        it.restart()
        assert why(it, "n0") == "restored"
        it.give_up()


def test_two_disks_burn_while_the_network_is_cut() -> None:
    """R5 at level 2: an acknowledged write is in the log that goes on when the primary and the
    replica that has most are lost, and another replica was cut off all the time."""
    with played(level=2) as it:
        it.wait(2.0)
        it.disturb("n0", "n3", Link.CUT, True)
        it.write("n0", "a file", True, 2.0)
        (ack,) = it.sim.history.acks
        it.burn()
        lost = [member.name for member in it.sim.members.values() if member.lost]
        assert lost == ["n0", "n2"]
        it.promote(False)
        owner = it.sim.owner()
        assert owner is not None
        assert it.sim.history.holds(it.sim.history.seen[owner.name], ack.serial, ack.raw)


# What it must be able to find


def test_it_finds_a_primary_that_ignores_its_fence(monkeypatch: pytest.MonkeyPatch) -> None:
    """R6: a primary that goes on although a later epoch has begun is caught."""
    monkeypatch.setattr(Fencing, "check", lambda self: None)
    with played(level=0) as it:
        it.wait(2.0)
        it.promote(True)
        it.wait(2.0)
        old = it.member("n0")
        with pytest.raises(Violation, match="R6"):
            it.sim.write(old, [], secret=False)
        it.give_up()


def test_it_finds_lost_acknowledgements(monkeypatch: pytest.MonkeyPatch) -> None:
    """R5: an acknowledgement that no replica stands behind is caught."""
    monkeypatch.setattr(Acks, "holders", lambda self, serial, *, with_files: 9)
    with played(level=1) as it:
        it.wait(2.0)
        for other in ("n1", "n2", "n3"):
            it.disturb("n0", other, Link.CUT, True)
        with pytest.raises(Violation, match="R5"):
            it.write("n0", "a file", False, 2.0)
        it.give_up()


def test_it_finds_wrong_state(monkeypatch: pytest.MonkeyPatch) -> None:
    """R1: a replica that applies an entry otherwise than a replay does is caught."""

    def forgetful(connection: Connection, entry: Entry, touched: Touched) -> None:
        if entry.kind is not Kind.INDEX_SET:
            apply(connection, entry, touched)

    monkeypatch.setattr(taking, "apply", forgetful)
    with played() as it:
        with pytest.raises(Violation, match="R1"):
            it.write("n0", "an index", False, 12.0)
        it.give_up()
