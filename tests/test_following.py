"""The follower's states: what each fact does to them, and how long it waits."""

from __future__ import annotations

import errno
import random

import pytest
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st

from cluster.errors import DiskRefused, LogError, NotDurable, UnknownFormat
from replica.following import (
    Diverged,
    Following,
    NotAdmitted,
    State,
    Unreachable,
    WrongLog,
    applied,
    delay_seconds,
    document,
    failed,
)

NEW = Following(since=10.0)
ERRORS = [
    (Unreachable("away"), State.PRIMARY_UNREACHABLE),
    (NotAdmitted("who?"), State.NOT_ADMITTED),
    (Diverged("fork"), State.DIVERGED),
    (WrongLog("other"), State.OTHER_LOG),
    (UnknownFormat("upgrade"), State.NEEDS_UPGRADE),
    (LogError("garbage"), State.BAD_ANSWER),
    (ValueError("a bug"), State.BAD_ANSWER),
    (NotDurable("lost"), State.DISK_FAILED),
    (DiskRefused("full"), State.DISK_FAILED),
    (OSError(errno.ENOSPC, "full"), State.DISK_FAILED),
    (OSError(errno.ECONNRESET, "the network's"), State.BAD_ANSWER),
]


def at(state: State) -> Following:
    return evolve(NEW, state=state, failures=3, in_sync_at=5.0, caught_up_once=True)


@pytest.mark.parametrize("before", State)
@pytest.mark.parametrize(("error", "after"), ERRORS)
def test_failures(before: State, error: Exception, after: State) -> None:
    """Each failure has its state, whatever was before, and says when and why."""
    found = failed(at(before), error, 20.0)
    assert found.state is after
    assert found.since == (10.0 if before is after else 20.0)
    assert found.failures == 4
    assert (found.last_error, found.last_error_at) == (str(error), 20.0)
    assert found.last_contact == (None if isinstance(error, Unreachable) else 20.0)
    assert found.caught_up_once
    assert found.in_sync_at == 5.0


@pytest.mark.parametrize("before", State)
@pytest.mark.parametrize(
    ("position", "primary", "after"),
    [(5, 5, State.IN_SYNC), (5, 9, State.CATCHING_UP), (9, 5, State.IN_SYNC),
     (0, 0, State.IN_SYNC)],
)  # fmt: skip
def test_pages(before: State, position: int, primary: int, after: State) -> None:
    """A verified page ends any trouble; in sync is who has all that the primary told of."""
    found = applied(at(before), position, primary, 20.0)
    assert found.state is after
    assert found.since == (10.0 if before is after else 20.0)
    assert found.failures == 0
    assert found.last_contact == 20.0
    assert found.primary_serial == max(position, primary)
    assert found.in_sync_at == (20.0 if after is State.IN_SYNC else 5.0)


def test_caught_up_once_stays() -> None:
    """Whoever had caught up once has, for ever; who never was has not."""
    behind = applied(NEW, 1, 5, 20.0)
    assert not behind.caught_up_once
    there = applied(behind, 5, 5, 21.0)
    assert there.caught_up_once
    assert failed(there, Unreachable("away"), 22.0).caught_up_once


def test_errors_without_text() -> None:
    """An error that says nothing is named by its type."""
    assert failed(NEW, ValueError(), 1.0).last_error == "ValueError()"


@given(st.integers(0, 10_000), st.integers())
def test_delays_are_bounded(failures: int, seed: int) -> None:
    """Each delay lies between half and all of its step; no step is longer than 6 s."""
    delay = delay_seconds(Following(failures=failures), random.Random(seed))
    step = min(6.0, 0.5 * 2 ** min(failures, 20))
    assert step / 2 <= delay <= step


def test_delays_grow() -> None:
    """The longest delay doubles with each failure, from a second to six."""

    class Longest(random.Random):
        def uniform(self, a: float, b: float) -> float:
            return b

    delays = [delay_seconds(Following(failures=n), Longest()) for n in range(1, 9)]
    assert delays == [1.0, 2.0, 4.0, 6.0, 6.0, 6.0, 6.0, 6.0]


def test_delays_differ() -> None:
    """Replicas that lost their primary at once do not come back at once."""
    delays = {delay_seconds(Following(failures=9), random.Random(n)) for n in range(50)}
    assert len(delays) == 50
    assert max(delays) - min(delays) > 2


def test_document() -> None:
    """Status shows the state's name, and how far behind in entries and seconds."""
    behind = applied(applied(NEW, 5, 5, 20.0), 5, 9, 25.0)
    shown = document(behind, 5, 50.0)
    assert (shown["state"], shown["lag_entries"], shown["lag_seconds"]) == ("catching-up", 4, 30.0)
    there = applied(behind, 9, 9, 51.0)
    shown = document(there, 9, 60.0)
    assert (shown["state"], shown["lag_entries"], shown["lag_seconds"]) == ("in-sync", 0, 0.0)
    assert shown["last_error"] is None
    never = failed(NEW, Unreachable("away"), 12.0)
    assert document(never, 0, 20.0)["lag_seconds"] == 8.0
