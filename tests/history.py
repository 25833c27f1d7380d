"""What clients saw, and a judge of it: is that what one log, read by honest nodes, can give?

Clients record each operation with its time and answer. The log gives the order, so no search is
needed; the findings are those of `RULES`.
"""

from __future__ import annotations

import json
import threading
import time
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from enum import StrEnum
from itertools import pairwise
from pathlib import Path

from attrs import asdict, define, field, frozen

RULES = {
    "order": "a write that ended before another began has the smaller serial",
    "lost": "an acknowledged write is in the final log, an upload once, with the bytes sent",
    "page": "a page is what the log says at its last serial, and lacks nothing up to the answer's",
    "back": "what a session sees never goes back, and reaches the minimum it asks for",
    "bytes": "a download is what was uploaded; only what was removed is not there",
    "twice": "a write without a good answer is in the final log once, or not at all",
    "roots": "in the end all nodes have the same log",
}


class Outcome(StrEnum):
    """What a client knows of its operation."""

    OK = "ok"
    REFUSED = "refused"
    UNKNOWN = "unknown"


class Action(StrEnum):
    """What a client does, or what an entry of the log does."""

    UPLOAD = "upload"
    DELETE = "delete"
    YANK = "yank"
    READ = "read"
    DOWNLOAD = "download"


WRITES = (Action.UPLOAD, Action.DELETE, Action.YANK)
_YANKED = " yanked"


@define
class Operation:
    """A write or a download of a file, or a read of a project's page, which has no `filename`.

    `files` is what a page that was read says, if it is OK: see `fact`. `sha256` is of the bytes
    sent or received; a download without it found no such file. A write that is OK and has not
    `changed` anything found it done. `serial` is X-Pymirror-Serial of the answer, `last` the
    X-PyPI-Last-Serial of the page, `minimum` the X-Pymirror-Min asked for; times are seconds of
    one monotonic clock. `level` is how many replicas an acknowledgement promises.
    """

    session: str
    project: str
    began: float
    filename: str | None = None
    sha256: str | None = None
    minimum: int | None = None
    level: int = 0
    ended: float = 0.0
    outcome: Outcome = Outcome.UNKNOWN
    status: int | None = None
    serial: int | None = None
    last: int | None = None
    changed: bool = True
    files: Mapping[str, str] | None = None
    action: Action = Action.UPLOAD

    def __attrs_post_init__(self) -> None:
        if self.filename is None:
            self.action = Action.READ


@define
class History:
    """Operations of all clients, recorded from their threads."""

    operations: list[Operation] = field(factory=list)
    _lock: threading.Lock = field(factory=threading.Lock)

    @contextmanager
    def recorded(self, operation: Operation) -> Iterator[Operation]:
        """The block does it and says how it went; an error that leaves the block is "unknown"."""
        with self._lock:
            self.operations.append(operation)
        try:
            yield operation
        finally:
            operation.ended = time.monotonic()

    def acked(self, *actions: Action) -> list[Operation]:
        """Writes of these kinds (none: uploads) with a good answer, in order of their ends."""
        kinds = actions or (Action.UPLOAD,)
        with self._lock:
            done = [o for o in self.operations if o.action in kinds and o.outcome is Outcome.OK]
        return sorted(done, key=lambda o: o.ended)

    def tried_to_delete(self) -> set[str]:
        """The files that may be gone."""
        with self._lock:
            return {o.filename or "" for o in self.operations if o.action is Action.DELETE}

    def save(self, path: Path) -> None:
        """One JSON object a line, for whoever looks for the cause."""
        with self._lock:
            lines = [json.dumps(asdict(one)) for one in self.operations]
        path.write_text("\n".join([*lines, ""]))


def fact(sha256: str, yanked: bool) -> str:
    """What a page says of a file."""
    return sha256 + _YANKED if yanked else sha256


@frozen
class Logged:
    """What an entry of the log does to a file: uploads, deletes (no `sha256`) or yanks it."""

    serial: int
    project: str
    filename: str
    sha256: str | None
    action: Action = Action.UPLOAD


@define
class Log:
    """One history of the log. `fork` is the first serial that only this one has, if it is not
    the final one."""

    entries: Sequence[Logged]
    size: int
    fork: int | None = None
    _states: dict[str, list[tuple[int, dict[str, str]]]] = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._states = defaultdict(lambda: [(0, {})])
        for one in self.entries:
            files = dict(self._states[one.project][-1][1])
            if one.sha256 is None:
                files.pop(one.filename, None)
            else:
                files[one.filename] = fact(one.sha256, one.action is Action.YANK)
            self._states[one.project].append((one.serial, files))

    def files_at(self, project: str, serial: int) -> dict[str, str]:
        """A project's files as of a serial: name → sha256."""
        states = self._states[project]
        return states[bisect_right(states, serial, key=lambda state: state[0]) - 1][1]

    def done(self, action: Action) -> dict[str, list[Logged]]:
        """The entries that upload, delete or yank each file name."""
        found: dict[str, list[Logged]] = defaultdict(list)
        for one in self.entries:
            if one.action is action:
                found[one.filename].append(one)
        return found


@frozen
class Finding:
    """A broken rule and what breaks it."""

    rule: str
    what: str


def judge(
    operations: Iterable[Operation], logs: Sequence[Log], roots: Iterable[object] = ()
) -> list[Finding]:
    """All findings; none is good.

    `logs` is the final log and then those with entries that were taken back and kept in a file:
    an upload acknowledged by no replica (level 0) may be in one of them instead. `roots` is what
    each node says of its log in the end.
    """
    done = sorted(operations, key=lambda o: o.began)
    writes = [o for o in done if o.action in WRITES]
    found = [*_order(writes, logs[0]), *_lost(writes, logs), *_twice(writes, logs[0])]
    found += [*_pages(done, logs), *_back(done, logs), *_bytes(done, logs)]
    different = {repr(root) for root in roots}
    if len(different) > 1:
        found.append(Finding("roots", " != ".join(sorted(different))))
    return found


def _order(writes: Sequence[Operation], final: Log) -> Iterator[Finding]:
    there = {(one.action, one.filename) for one in final.entries}
    acked = [o for o in writes if _is_acked(o) and o.serial and (o.action, o.filename) in there]
    ended = sorted(acked, key=lambda o: o.ended)
    highest: Operation | None = None
    at = 0
    for one in acked:
        while at < len(ended) and ended[at].ended < one.began:
            if highest is None or _serial(ended[at]) > _serial(highest):
                highest = ended[at]
            at += 1
        if highest is not None:
            least = _serial(highest) + (1 if one.changed else 0)
            if _serial(one) < least:
                yield Finding("order", f"{highest} ended before {one} began")


def _lost(writes: Sequence[Operation], logs: Sequence[Log]) -> Iterator[Finding]:
    places = {action: [log.done(action) for log in logs] for action in WRITES}
    for one in writes:
        if not _is_acked(one):
            continue
        name = one.filename or ""
        allowed = places[one.action] if one.level == 0 else places[one.action][:1]
        entries = next((place[name] for place in allowed if name in place), [])
        if one.action is Action.UPLOAD and [e.sha256 for e in entries] != [one.sha256]:
            yield Finding("lost", f"{one} is in the log as {entries}")
        elif one.changed and [e.serial for e in entries] != [one.serial]:
            yield Finding("lost", f"{one} was recorded as {entries}")
        elif not entries and name in places[Action.UPLOAD][0]:
            # Who takes back an upload has none of what was done to it either.
            yield Finding("lost", f"{one} is in no log")


def _twice(writes: Sequence[Operation], final: Log) -> Iterator[Finding]:
    sent: dict[tuple[Action, str], set[str | None]] = defaultdict(set)
    for one in writes:
        sent[one.action, one.filename or ""].add(one.sha256)
    done = {action: final.done(action) for action in WRITES}
    for (action, name), digests in sent.items():
        entries = done[action].get(name, [])
        odd = action is Action.UPLOAD and any(entry.sha256 not in digests for entry in entries)
        if len(entries) > 1 or odd:
            yield Finding("twice", f"{action} of {name} ({digests}) is in the log as {entries}")


def _bytes(done: Iterable[Operation], logs: Sequence[Log]) -> Iterator[Finding]:
    added = [log.done(Action.UPLOAD) for log in logs]
    removed = [log.done(Action.DELETE) for log in logs]
    for one in done:
        if one.action is not Action.DOWNLOAD or one.outcome is not Outcome.OK:
            continue
        name = one.filename or ""
        if one.sha256 is None:
            if name in added[0] and not any(name in log for log in removed):
                yield Finding("bytes", f"{one}, which was never removed")
        elif all(one.sha256 not in [e.sha256 for e in log.get(name, [])] for log in added):
            yield Finding("bytes", f"{one} is not what was uploaded")


def _pages(done: Iterable[Operation], logs: Sequence[Log]) -> Iterator[Finding]:
    for one in done:
        if one.files is None or one.serial is None:
            continue
        at = max(one.serial, one.last or 0)
        # A page may be newer than its answer's serial, which was read before it.
        said = [log.files_at(one.project, at) for log in logs if at <= log.size]
        if dict(one.files) not in said:
            yield Finding("page", f"{one}; the log says {said}")


def _back(done: Sequence[Operation], logs: Sequence[Log]) -> Iterator[Finding]:
    sessions: dict[str, list[Operation]] = defaultdict(list)
    for one in done:
        if one.serial is not None and one.outcome is Outcome.OK:
            sessions[one.session].append(one)
            if one.minimum is not None and one.serial < one.minimum:
                yield Finding("back", f"{one} did not reach its minimum")
    for steps in sessions.values():
        # Entries that were taken back are no step back, once for each promotion.
        forks = [log.fork for log in logs if log.fork is not None]
        for before, after in pairwise(steps):
            if _serial(after) >= _serial(before):
                continue
            fork = next((f for f in forks if _serial(after) >= f - 1 < _serial(before)), None)
            if fork is None:
                yield Finding("back", f"{before}, then {after}")
            else:
                forks.remove(fork)


def _is_acked(operation: Operation) -> bool:
    return operation.outcome is Outcome.OK and operation.action in WRITES


def _serial(operation: Operation) -> int:
    return operation.serial or 0
