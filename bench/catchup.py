"""Catching up: how fast a fresh replica takes over the primary's log, by its tail or a snapshot."""

from __future__ import annotations

import time
from collections.abc import Mapping

from bench.client import BenchError, now
from bench.subjects import System, Target

_TIMEOUT_SECONDS = 600.0
# A replica that is asked all the time has less of it for its work.
_POLL_SECONDS = 0.05
TAIL, SNAPSHOT = "by tail", "by snapshot"


def measure(
    system: System, primary: Target, number: int, hosted_files: int
) -> tuple[Target, Mapping[str, float]]:
    """Start a replica and wait until it has every entry.

    Returns it, still running, with `rate` (entries/s from the moment it could follow),
    `files_rate` (hosted files/s), `seconds`, `start_seconds` (from the start of the process,
    the program's own start included), `cpu` (the replica's, seconds an entry) and `entries`.
    """
    head = system.serial(primary)
    started = now()
    replica = _start_before_primary(system, primary, number)
    following, cpu = now(), replica.process.cpu_seconds()
    first = system.serial(replica)
    if not system.is_slow:
        primary.process.resume()
    _wait_for(system, replica, head)
    seconds = now() - following
    entries, cpu = head - first, replica.process.cpu_seconds() - cpu
    if entries <= 0:
        raise BenchError("the replica was in sync before it could be watched")
    return replica, {
        "rate": entries / seconds,
        "files_rate": hosted_files / seconds * entries / head,
        "seconds": seconds,
        "start_seconds": now() - started,
        "cpu": cpu / entries,
        "entries": float(entries),
    }


def _start_before_primary(system: System, primary: Target, number: int) -> Target:
    """Start a replica; of a fast system while the primary is paused.

    Such a replica would have followed before its first status is read: so its first request
    waits in the paused primary's queue, and the clock starts when that primary goes on.
    """
    if not system.is_slow:
        primary.process.pause()
    try:
        replica = system.start_replica(primary, number)
        system.wait_status(replica)
    except BaseException:
        primary.process.resume()
        raise
    return replica


def _wait_for(system: System, replica: Target, head: int) -> None:
    deadline = now() + _TIMEOUT_SECONDS
    while (serial := system.serial(replica)) < head:
        if now() > deadline:
            raise BenchError(f"only at {serial} of {head} after {_TIMEOUT_SECONDS:g} s")
        asked = now()
        system.wait_for(replica, head)
        time.sleep(max(0.0, asked + _POLL_SECONDS - now()))
