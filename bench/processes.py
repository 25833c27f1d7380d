"""Server processes: started, watched through /proc, and ended by process id."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from attrs import define, frozen

from bench.client import BenchError, now

_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
_END_SECONDS = 15.0


@frozen
class Memory:
    """Memory of a process and its children, in bytes."""

    rss: int
    pss: int


@define(eq=False)
class ServerProcess:
    """One server: the process that was started, and what it forks."""

    name: str
    log: Path
    _popen: subprocess.Popen[bytes]

    @property
    def pid(self) -> int:
        """The id of the process that was started."""
        return self._popen.pid

    def cpu_seconds(self) -> float:
        """CPU time that the process and its living children used so far."""
        return sum(_cpu_ticks(pid) for pid in _tree(self.pid)) / _TICKS_PER_SECOND

    def memory(self) -> Memory:
        """Resident and proportional memory now."""
        rows = [_smaps(pid) for pid in _tree(self.pid)]
        return Memory(sum(r.get("Rss", 0) for r in rows), sum(r.get("Pss", 0) for r in rows))

    def pause(self) -> None:
        """Stop the process for a while; `resume` must follow."""
        self._popen.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let a paused process go on."""
        self._popen.send_signal(signal.SIGCONT)

    def wait_until(
        self, ready: Callable[[], bool], seconds: float, poll_seconds: float = 0.01
    ) -> None:
        """Wait until `ready()`; raises BenchError with the end of the log if it never is."""
        deadline = now() + seconds
        while not ready():
            if self._popen.poll() is not None:
                raise BenchError(f"{self.name} ended: {self._log_end()}")
            if now() > deadline:
                raise BenchError(f"{self.name} not ready in {seconds:g} s: {self._log_end()}")
            time.sleep(poll_seconds)

    def end(self) -> None:
        """End the process: politely, then not; with it what it forked."""
        pids = _tree(self.pid)
        with suppress(ProcessLookupError):
            self._popen.send_signal(signal.SIGCONT)
        self._popen.terminate()
        try:
            self._popen.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            for pid in pids:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            self._popen.wait(_END_SECONDS)

    def _log_end(self) -> str:
        lines = self.log.read_text(errors="replace").splitlines()
        return "\n".join(lines[-15:]) or "(its log is empty)"


class ProcessGroup:
    """All servers of a run; `end_all` leaves none behind."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._processes: list[ServerProcess] = []

    def start(
        self,
        name: str,
        command: Sequence[str],
        cwd: Path,
        environment: Mapping[str, str] | None = None,
    ) -> ServerProcess:
        """Start a server whose output goes to a log file of that name."""
        log = self._directory / f"{name.replace(' ', '-')}.log"
        with log.open("ab") as output:
            popen = subprocess.Popen(
                command,
                cwd=cwd,
                env={**os.environ, **(environment or {})},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                # Ctrl-C is for the bench alone: it ends the servers one by one.
                start_new_session=True,
            )
        process = ServerProcess(name, log, popen)
        self._processes.append(process)
        return process

    def end(self, process: ServerProcess) -> None:
        """End one server."""
        process.end()
        self._processes.remove(process)

    def end_all(self) -> None:
        """End every server that still runs, last started first."""
        while self._processes:
            self._processes.pop().end()


def _tree(pid: int) -> list[int]:
    """A process and its living descendants."""
    found = [pid]
    for parent in found:
        with suppress(OSError):
            for task in Path(f"/proc/{parent}/task").iterdir():
                found.extend(int(child) for child in (task / "children").read_text().split())
    return found


def _cpu_ticks(pid: int) -> int:
    try:
        # The command's name, in parentheses, may hold spaces: count fields behind it (proc(5)).
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0
    return int(fields[11]) + int(fields[12])


def _smaps(pid: int) -> dict[str, int]:
    """Fields of smaps_rollup in bytes; empty for a process that is gone."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return {}
    pairs = (line.partition(":") for line in lines if line.endswith("kB"))
    return {name: int(value.split()[0]) * 1024 for name, _, value in pairs}
