"""States of following, and what each fact does to them (pure). Status shows these names."""

from __future__ import annotations

import errno
import random
from enum import StrEnum
from typing import Any, Final

from attrs import evolve, frozen

from cluster.errors import (
    DiskRefused,
    LogError,
    LoopDetected,
    NotDurable,
    PymirrorError,
    UnknownFormat,
)
from cluster.hints import hint
from cluster.upstream.health import iso

_FIRST_DELAY_SECONDS = 0.5
# With the time that it takes to connect, a healed network is back in use within ten seconds.
_LONGEST_DELAY_SECONDS = 6.0
# Who asks for more than this may be wrong, and we would never know.
_LONGEST_OBEYED_SECONDS = 60.0
_OF_THE_DISK: Final = frozenset({errno.EIO, errno.ENOSPC, errno.EDQUOT, errno.EROFS})


class State(StrEnum):
    """Where a follower is."""

    CONNECTING = "connecting"
    CATCHING_UP = "catching-up"
    BOOTSTRAPPING = "bootstrapping"
    IN_SYNC = "in-sync"
    PRIMARY_UNREACHABLE = "primary-unreachable"
    NOT_ADMITTED = "not-admitted"
    NOT_PRIMARY = "not-primary"
    OTHER_LOG = "other-log"
    DIVERGED = "diverged"
    BAD_ANSWER = "bad-answer"
    NEEDS_UPGRADE = "needs-upgrade"
    LOOP = "loop"
    DISK_FAILED = "disk-failed"


STUCK: Final = frozenset(
    {State.NOT_ADMITTED, State.OTHER_LOG, State.DIVERGED, State.NEEDS_UPGRADE, State.LOOP,
     State.DISK_FAILED}
)  # fmt: skip
"""States in which nothing is applied before somebody has done something about it."""


class Unreachable(PymirrorError):
    """The primary gave no answer, or says that it cannot serve now; `retry_after_seconds` is when
    it wants to be asked again, 0 if it does not say.
    """

    status = 503

    def __init__(self, message: str, retry_after_seconds: float = 0.0) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds


class NotAdmitted(PymirrorError):
    """The primary does not take us for a node of its cluster."""


class NotPrimary(PymirrorError):
    """Who was asked owns the log no more; `primary_url` is who does, as far as it knows."""

    def __init__(self, message: str, primary_url: str | None = None) -> None:
        super().__init__(message)
        self.primary_url = primary_url


class Diverged(PymirrorError):
    """What we hold is not a beginning of the primary's log: nothing of it may be applied."""


class TooFarBehind(PymirrorError):
    """The primary's log begins behind our position: only a snapshot leads on."""


class WrongLog(PymirrorError):
    """The primary owns another log than the one we follow."""


@frozen
class Following:
    """A follower's state; times are seconds since 1970, `primary_serial` the last head heard of."""

    state: State = State.CONNECTING
    since: float = 0.0
    failures: int = 0
    last_error: str | None = None
    last_error_at: float | None = None
    last_contact: float | None = None
    in_sync_at: float | None = None
    primary_serial: int = 0
    caught_up_once: bool = False
    retry_after: float = 0.0

    def moved(self, state: State, now: float) -> Following:
        """In another state since now, or in the same one since before."""
        return self if state is self.state else evolve(self, state=state, since=now)


def applied(following: Following, position: int, primary_serial: int, now: float) -> Following:
    """A verified page was applied (it may have been empty); we are at `position` now."""
    in_sync = position >= primary_serial
    after = following.moved(State.IN_SYNC if in_sync else State.CATCHING_UP, now)
    return evolve(
        after,
        failures=0,
        retry_after=0.0,
        last_contact=now,
        primary_serial=max(primary_serial, position),
        in_sync_at=now if in_sync else following.in_sync_at,
        caught_up_once=following.caught_up_once or in_sync,
    )


def failed(following: Following, error: Exception, now: float) -> Following:
    """An attempt to follow failed; nothing of it was applied."""
    reached = not isinstance(error, Unreachable)
    return evolve(
        following.moved(_state_after(error), now),
        failures=following.failures + 1,
        last_error=str(error) or repr(error),
        last_error_at=now,
        last_contact=now if reached else following.last_contact,
        retry_after=min(_wanted_seconds(error), _LONGEST_OBEYED_SECONDS),
    )


def _wanted_seconds(error: Exception) -> float:
    return error.retry_after_seconds if isinstance(error, Unreachable) else 0.0


def _state_after(error: Exception) -> State:
    for kind, state in (
        (Unreachable, State.PRIMARY_UNREACHABLE),
        (NotAdmitted, State.NOT_ADMITTED),
        (NotPrimary, State.NOT_PRIMARY),
        (Diverged, State.DIVERGED),
        (TooFarBehind, State.BOOTSTRAPPING),
        (WrongLog, State.OTHER_LOG),
        (UnknownFormat, State.NEEDS_UPGRADE),
        (LoopDetected, State.LOOP),
        (NotDurable, State.DISK_FAILED),
        (DiskRefused, State.DISK_FAILED),
        (LogError, State.BAD_ANSWER),
    ):
        if isinstance(error, kind):
            return state
    if isinstance(error, OSError) and error.errno in _OF_THE_DISK:
        return State.DISK_FAILED
    return State.BAD_ANSWER


def delay_seconds(following: Following, chance: random.Random) -> float:
    """How long to wait before the next attempt: doubling, with jitter, so that a primary that
    comes back is not hit by all its replicas at once.
    """
    longest: float = min(
        _LONGEST_DELAY_SECONDS, _FIRST_DELAY_SECONDS * 2 ** min(following.failures, 10)
    )
    return max(longest * chance.uniform(0.5, 1.0), following.retry_after)


def document(following: Following, position: int, now: float) -> dict[str, Any]:
    """The `follower` part of a replica's status document."""
    in_sync = following.state is State.IN_SYNC
    behind_since = following.in_sync_at or following.since
    return {
        "state": following.state.value,
        "since": iso(following.since),
        "hint": hint(following.state.value),
        "lag_entries": max(0, following.primary_serial - position),
        "lag_seconds": 0.0 if in_sync else round(max(0.0, now - behind_since), 3),
        "failures": following.failures,
        "last_error": following.last_error,
        "last_error_at": iso(following.last_error_at),
    }
