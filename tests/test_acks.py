"""Acknowledgement levels: a write waits for replicas, and says so when there are too few."""

from __future__ import annotations

from typing import Any

import pytest
import pytest_twisted
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from cluster.log.changes import Change, Kind
from cluster.names import IndexName
from cluster.state.database import Database
from cluster.state.directory import Directory
from primary.acks import WAIT_SECONDS, Acks, NotReplicated
from primary.writer import Written
from tests.fakes import START, as_clock, database, user_set, writer

DEV = IndexName("root/dev")


def acks(level: int = 0) -> tuple[Acks, Clock]:
    clock = Clock()
    return Acks(as_clock(clock), None, level), clock  # type: ignore[arg-type]


async def write_index(of: Database, replicas: int) -> None:
    index = {"index": DEV, "type": "stage", "options": {"sync_replicas": replicas}}
    write = writer(of)
    await write.write("root", lambda c: [START, user_set("root")])
    await write.write("root", lambda c: [Change(Kind.INDEX_SET, index)])


def waiting(of: Acks, serial: int, wanted: int, with_files: bool = False) -> Deferred[None]:
    return Deferred.fromCoroutine(of.reached(serial, wanted, with_files=with_files))


def test_level_zero_waits_for_nobody() -> None:
    """Without a level a write is acknowledged at once."""
    of, _ = acks()
    assert waiting(of, 5, 0).called


def test_waits_for_enough_replicas() -> None:
    """Two different replicas must have the serial; one twice is still one."""
    of, _ = acks()
    done = waiting(of, 5, 2)
    of.cosigned("a", 5, 0)
    of.cosigned("a", 7, 0)
    of.cosigned("b", 4, 4)
    assert not done.called
    of.cosigned("b", 5, 0)
    assert done.called


def test_files_count() -> None:
    """An upload waits until its bytes are there too, not only its entry."""
    of, _ = acks()
    done = waiting(of, 5, 1, with_files=True)
    of.cosigned("a", 9, 4)
    assert not done.called
    of.cosigned("a", 9, 5)
    assert done.called


@pytest_twisted.ensureDeferred
async def test_too_few() -> None:
    """After a bounded time the client is told that it is stored here alone, with a 503."""
    of, clock = acks()
    done = waiting(of, 5, 1)
    clock.advance(WAIT_SECONDS - 1)
    assert not done.called
    clock.advance(2)
    with pytest.raises(NotReplicated, match="serial 5"):
        await done
    of.cosigned("a", 5, 5)


@pytest_twisted.ensureDeferred
async def test_too_few_for_long() -> None:
    """What too few replicas would hear of is refused before it is stored; after a start there
    is a minute to be heard of."""
    with database() as of_state:
        await write_index(of_state, 2)
        clock = Clock()
        of = Acks(as_clock(clock), Directory(of_state))
        await of.require_reachable(DEV)
        clock.advance(61)
        of.cosigned("a", 1, 0)
        with pytest.raises(NotReplicated, match=r"has stored nothing: 2 .* 1 were heard of"):
            await of.require_reachable(DEV)
        of.cosigned("b", 1, 0)
        await of.require_reachable(DEV)
        await of.require_reachable(IndexName("root/other"))


def test_a_silent_replica_counts_no_more() -> None:
    """Who has not been heard of for a minute may be gone for good."""
    of, clock = acks()
    of.cosigned("a", 9, 9)
    clock.advance(61)
    assert of.holders(5, with_files=False) == 0
    of.cosigned("b", 9, 9)
    of.forget("b")
    assert of.holders(5, with_files=False) == 0


@pytest_twisted.ensureDeferred
async def test_levels_of_node_and_index() -> None:
    """The higher of both levels counts; what pymirror writes by itself waits for nobody."""
    with database() as of:
        await write_index(of, 1)
        clock = Clock()
        level = Acks(as_clock(clock), Directory(of))
        written = Written(3, True, False)

        def confirming(actor: str, at: IndexName | None) -> Deferred[None]:
            return Deferred.fromCoroutine(level.confirm(actor, written, at))

        assert confirming("+mirror", DEV).called
        assert confirming("root", None).called
        held = confirming("root", DEV)
        before = held.called
        level.cosigned("a", 3, 0)
        assert (before, held.called) == (False, True)
        level.level = 2
        more: Deferred[Any] = confirming("root", DEV)
        assert not more.called
        level.cosigned("b", 3, 0)
        assert more.called
