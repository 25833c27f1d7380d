"""Hours of steady clients and one random fault after the other: ``python -m tests.soak``.

Each fault is chosen by the seed, which is printed; after it the nodes must come together within
ten seconds, with clients going on. In the end the gates: memory, open files, latency, what the
nodes logged, and what the clients saw. The exit status says whether all held.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from attrs import define, field

from tests.functional.scenarios.test_flap import open_files
from tests.functional.scenarios.world import HOSTS, World
from tests.history import Outcome
from tests.netlab import Lab, why_not
from tests.processes import Node, eventually

PROJECTS = 200
CONVERGED_SECONDS = 10.0
SKIPPED = 77
_RSS_BYTES_AN_HOUR = 1 << 20
_MORE_FILES = 24
_PAGE_P99_SECONDS = 0.05
_SETTLED_SECONDS = 3_600.0


@define
class Sample:
    """What a node uses, and when that was."""

    at: float
    rss: int
    files: int


@define
class Soak:
    """One run; `wait` is between two faults, in seconds."""

    world: World
    chance: random.Random
    wait: float
    primary: Node
    replicas: list[Node]
    samples: dict[str, list[Sample]] = field(factory=dict)
    failures: list[str] = field(factory=list)
    calm: list[tuple[float, float]] = field(factory=list)

    @property
    def nodes(self) -> list[Node]:
        """All of them, the primary first."""
        return [self.primary, *self.replicas]

    def run(self, seconds: float) -> None:
        """Faults for so long."""
        until = time.monotonic() + seconds
        with self.world.load.until():
            self._clients()
            while time.monotonic() < until:
                began = time.monotonic()
                time.sleep(self.wait)
                self.calm.append((began, time.monotonic()))
                self._sample()
                self._one_fault()

    def _clients(self) -> None:
        load, last = self.world.load, self.replicas[-1]
        load.upload_to("at-primary", lambda: self.primary, pace=1.0)
        load.upload_to("through-last", lambda: last, pace=3.0)
        for node in self.nodes:
            load.read_from(f"reads-{node.name}", node, pace=0.5)

    def _one_fault(self) -> None:
        fault = self.chance.choice(FAULTS)
        seconds = self.chance.uniform(2, 60)
        victim = self.chance.choice(self.replicas)
        say(f"{fault.__name__} {victim.name} {seconds:.0f} s")
        fault(self, victim, seconds)
        healed = self.world.heal()
        serial = self.primary.status()["serial"]
        for node in self.replicas:
            left = max(0.1, CONVERGED_SECONDS - (time.monotonic() - healed))
            try:
                node.wait_serial(serial, left)
            except AssertionError as error:
                self.failures.append(f"after {fault.__name__} of {victim.name}: {error}")
                say(self.failures[-1])
        say(f"converged after {time.monotonic() - healed:.2f} s")

    def _sample(self) -> None:
        for node in self.nodes:
            sample = Sample(time.monotonic(), node.rss_bytes(), open_files(node))
            # A restarted process begins anew.
            self.samples.setdefault(f"{node.name} {node.pid}", []).append(sample)

    def gates(self) -> Iterator[str]:
        """What did not hold, in words."""
        yield from self.failures
        for name, samples in self.samples.items():
            settled = [s for s in samples if s.at > samples[0].at + _SETTLED_SECONDS]
            if len(settled) > 10:
                slope = slope_an_hour(settled)
                say(f"{name}: {slope / (1 << 20):+.2f} MiB/h")
                if slope > _RSS_BYTES_AN_HOUR:
                    yield f"{name} grows by {slope / (1 << 20):.2f} MiB an hour"
            if samples[-1].files > samples[0].files + _MORE_FILES:
                yield f"{name}: {samples[0].files} open files became {samples[-1].files}"
        took = sorted(self._page_seconds())
        p99 = took[int(len(took) * 0.99)] if took else 0.0
        say(f"{len(took)} pages, p99 {p99 * 1_000:.1f} ms")
        if p99 > _PAGE_P99_SECONDS:
            yield f"p99 of pages is {p99 * 1_000:.0f} ms"

    def _page_seconds(self) -> Iterator[float]:
        for one in self.world.load.history.operations:
            is_calm = any(begin < one.began < end for begin, end in self.calm)
            may_wait = one.files is None or one.minimum is not None
            if not may_wait and one.outcome is Outcome.OK and is_calm:
                yield one.ended - one.began


def slope_an_hour(samples: list[Sample]) -> float:
    """Bytes an hour by which memory grows: the line of least squares."""
    at = sum(s.at for s in samples) / len(samples)
    rss = sum(s.rss for s in samples) / len(samples)
    spread = sum((s.at - at) ** 2 for s in samples)
    return 3_600 * sum((s.at - at) * (s.rss - rss) for s in samples) / spread


def cut(soak: Soak, victim: Node, seconds: float) -> None:
    """No frame passes between a replica and the primary."""
    soak.world.lab.cut("primary", victim.name)
    time.sleep(seconds)


def cut_one_way(soak: Soak, victim: Node, seconds: float) -> None:
    """A replica does not hear the primary."""
    soak.world.lab.cut("primary", victim.name, one_way=True)
    time.sleep(seconds)


def flap(soak: Soak, victim: Node, seconds: float) -> None:
    """The way between them comes and goes."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        soak.world.lab.cut("primary", victim.name)
        time.sleep(2)
        soak.world.heal()
        time.sleep(2)


def rough(soak: Soak, victim: Node, seconds: float) -> None:
    """Loss and delay."""
    soak.world.lab.shape("primary", victim.name, delay_ms=50, jitter_ms=25, loss=0.05)
    time.sleep(seconds)


def slow(soak: Soak, victim: Node, seconds: float) -> None:
    """A narrow way."""
    soak.world.lab.shape("primary", victim.name, kbit=256)
    time.sleep(seconds)


def kill_replica(soak: Soak, victim: Node, seconds: float) -> None:
    """SIGKILL, and some time away."""
    victim.kill()
    time.sleep(seconds)
    victim.start()


def kill_primary(soak: Soak, victim: Node, seconds: float) -> None:
    """SIGKILL, and at once back."""
    soak.primary.kill()
    soak.primary.start()


def restart_primary(soak: Soak, victim: Node, seconds: float) -> None:
    """SIGTERM, and back."""
    soak.primary.restart()


def pause_primary(soak: Soak, victim: Node, seconds: float) -> None:
    """SIGSTOP, SIGCONT."""
    os.kill(soak.primary.pid, signal.SIGSTOP)
    time.sleep(min(seconds, 30))
    os.kill(soak.primary.pid, signal.SIGCONT)


def pause_replica(soak: Soak, victim: Node, seconds: float) -> None:
    """The same for a replica."""
    os.kill(victim.pid, signal.SIGSTOP)
    time.sleep(seconds)
    os.kill(victim.pid, signal.SIGCONT)


Fault = Callable[[Soak, Node, float], None]
FAULTS: tuple[Fault, ...] = (
    cut, cut_one_way, flap, rough, slow, kill_replica, kill_primary, restart_primary,
    pause_primary, pause_replica,
)  # fmt: skip


def say(text: str) -> None:
    """A line with the time."""
    sys.stdout.write(f"{time.strftime('%H:%M:%S')} {text}\n")
    sys.stdout.flush()


def verified(world: World, nodes: list[Node]) -> bool:
    """`pymirror verify --level 4` of each replica against the primary."""
    program = str(Path(sys.executable).with_name("pymirror"))
    first, *others = nodes
    return all(
        subprocess.run(
            [program, "verify", first.url, "--against", other.url, "--level", "4",
             "--secret-file", str(world.secret_file)],
            check=False,
        ).returncode == 0
        for other in others
    )  # fmt: skip


def soaked(world: World, seed: int, seconds: float, wait: float) -> list[str]:
    """A whole run; what did not hold."""
    world.load.projects = PROJECTS
    primary, replicas = world.started(3)
    soak = Soak(world, random.Random(seed), wait, primary, replicas)
    soak.run(seconds)
    ended = world.heal()
    for node in replicas:
        eventually(
            lambda node=node: node.status()["serial"] == primary.status()["serial"],  # type: ignore[misc]
            CONVERGED_SECONDS, f"{node.name} is equal",
        )  # fmt: skip
    world.converged(soak.nodes, ended, 30)
    world.judged(soak.nodes)
    found = list(soak.gates())
    if not verified(world, soak.nodes):
        found.append("pymirror verify --level 4 finds differences")
    return found


def main() -> int:
    """Run by the command line."""
    parser = argparse.ArgumentParser(prog="tests.soak", description=__doc__)
    parser.add_argument("--seconds", type=float, default=8 * 3_600)
    parser.add_argument("--wait", type=float, default=120, help="seconds between two faults")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 32))
    options = parser.parse_args()
    reason = why_not()
    if reason is not None:
        say(f"not here: {reason}")
        return SKIPPED
    say(f"seed {options.seed}")
    folder = Path(tempfile.mkdtemp(prefix="pymirror-soak-"))
    with Lab(HOSTS) as lab, World(folder, lab) as world, lab.inside("client"):
        found = soaked(world, options.seed, options.seconds, options.wait)
    say("\n".join(found) or "all gates held")
    say(f"logs and history: {folder}")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
