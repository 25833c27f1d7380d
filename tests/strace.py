"""strace, to end or to hinder a process at a chosen system call.

`when` of an injection counts the calls of each thread by itself, from the moment at which strace
is attached; so a point is a call's name and its number in whichever thread comes to it first.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from attrs import frozen

WRITES = (
    "fsync", "fdatasync", "rename", "renameat", "renameat2", "link", "linkat", "unlink",
    "unlinkat", "symlink", "symlinkat", "ftruncate", "pwrite64", "write",
)  # fmt: skip
"""What changes a folder, or makes a change durable."""

_LINE = re.compile(r"^(\d+) +(\w+)\((.*)$")
_END_SECONDS = 20.0


@frozen
class Point:
    """The n-th call of this name in a thread."""

    call: str
    number: int

    def inject(self, what: str) -> str:
        """An option for strace: do `what` at this point."""
        return f"inject={self.call}:{what}:when={self.number}"

    def __str__(self) -> str:
        return f"{self.call} {self.number}"


def require_strace() -> None:
    """Skip without strace, or where it may not look into processes."""
    if shutil.which("strace") is None:
        pytest.skip("strace is missing: apt-get install strace")
    tried = subprocess.run(
        ["strace", "-qq", "-o", "/dev/null", "true"], capture_output=True, text=True
    )
    if tried.returncode:
        pytest.skip(f"strace is not permitted here: {tried.stderr.strip()}")


def traced(command: Sequence[str], trace: Path, *options: str) -> list[str]:
    """A command under strace from its start; the process that is started is the command's own."""
    calls = [f"-etrace={','.join(WRITES)}", *(f"-e{option}" for option in options)]
    # Starting Python makes thousands of other calls, at which nothing is to stop; but a signal
    # does not come before its call then.
    fast = [] if any(":signal=" in option for option in options) else ["--seccomp-bpf"]
    return ["strace", *fast, "-D", "-f", "-qq", "-y", "-o", str(trace), *calls, *command]


@contextmanager
def attached(pid: int, trace: Path, *options: str, only: Path | None = None) -> Iterator[None]:
    """strace, attached to all threads of a process that runs, until the block ends.

    With `only` it sees, counts and hinders nothing but calls on that file.
    """
    command = ["strace", "-f", "-y", "-p", str(pid), "-o", str(trace),
               f"-etrace={','.join(WRITES)}", *(f"-e{option}" for option in options),
               *(["-P", str(only)] if only is not None else [])]  # fmt: skip
    tracer = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert tracer.stderr is not None
    try:
        said = tracer.stderr.readline()
        assert "attached" in said, said
        yield
    finally:
        if tracer.poll() is None:
            tracer.terminate()
        tracer.communicate(timeout=_END_SECONDS)


def points(trace: Path, folder: Path, calls: Sequence[str] = WRITES) -> list[Point]:
    """The calls in a recording that touch a folder, each point once, in order."""
    _wait_whole(trace)
    counts: Counter[tuple[str, str]] = Counter()
    found: list[Point] = []
    for line in trace.read_text(errors="replace").splitlines():
        match = _LINE.match(line)
        if match is None or match[2] not in WRITES:
            continue
        counts[match[1], match[2]] += 1
        point = Point(match[2], counts[match[1], match[2]])
        if str(folder) in match[3] and point.call in calls and point not in found:
            found.append(point)
    return found


def _wait_whole(trace: Path) -> None:
    # A tracer that is nobody's child ends its file a moment after the process.
    size = -1
    while size != trace.stat().st_size:
        size = trace.stat().st_size
        time.sleep(0.2)


def spread(found: Sequence[Point], most: int) -> list[Point]:
    """At most so many: all that make things durable or visible first, then the others evenly."""
    first = [point for point in found if point.call not in ("write", "pwrite64")]
    others = [point for point in found if point not in first]
    if len(first) >= most:
        return _evenly(first, most)
    chosen = {*first, *_evenly(others, most - len(first))}
    return [point for point in found if point in chosen]


def _evenly(found: Sequence[Point], most: int) -> list[Point]:
    if len(found) <= most:
        return list(found)
    return [found[at * len(found) // most] for at in range(most)]
