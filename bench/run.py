"""The order of a run: start and fill, catch up, read, write; each server once in each round."""

from __future__ import annotations

import http.client
import random
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Protocol, TypeVar

from attrs import Factory, define, frozen

from bench import catchup, files, memory, nginx, pages, writes
from bench.client import BenchError, NotOffered
from bench.fill import data_set, fill
from bench.processes import ProcessGroup
from bench.results import Failure, Results
from bench.settings import Settings
from bench.subjects import System, Target

T = TypeVar("T")
_ERRORS = (BenchError, OSError, http.client.HTTPException, ValueError, KeyError, StopIteration)


class Progress(Protocol):
    """Who watches a run."""

    def phase(self, title: str, steps: int) -> None:
        """A phase of that many steps begins."""

    def step(self) -> None:
        """One step of the phase is done."""


@define
class Pair:
    """A system with its running servers; `replicas` were started, each in a folder of its own."""

    system: System
    primary: Target
    replica: Target | None = None
    replicas: int = 0


@frozen
class Cell:
    """One measurement of one server, repeated in each round."""

    metric: str
    subject: str
    measure: Callable[[int], Mapping[str, float]]


@define
class Run:
    """One run over systems and, unless `nginx_program` is None, nginx; fills `results`."""

    settings: Settings
    sections: Sequence[str]
    systems: Sequence[System]
    nginx_program: str | None
    directory: Path
    processes: ProcessGroup
    progress: Progress
    results: Results = Factory(Results)
    _pairs: list[Pair] = Factory(list)
    _targets: list[Target] = Factory(list)

    def run(self) -> None:
        """Measure everything that was asked for; what fails is recorded, and the rest goes on."""
        for system in self.systems:
            self._attempt("start", "fill", system.name, partial(self._fill, system))
        self._replicas()
        self._collect_targets()
        self._sample_memory("idle")
        if self._is_wanted("pages"):
            self._rounds("pages", self._page_cells(pages.CASES))
        elif self._is_wanted("memory"):
            self._rounds("load for memory", self._page_cells(pages.CASES[:3]))
        if self._is_wanted("files"):
            self._rounds("files", self._file_cells())
        self._sample_memory("loaded")
        if self._is_wanted("lag"):
            self._rounds("lag", self._lag_cells())
        if self._is_wanted("uploads"):
            self._rounds("uploads", self._upload_cells())

    def _is_wanted(self, section: str) -> bool:
        return section in self.sections

    def _attempt(self, section: str, metric: str, subject: str, work: Callable[[], T]) -> T | None:
        try:
            return work()
        except NotOffered as lack:
            self.results.notes.append(f"{section}, {metric}: not measured for {subject}: {lack}")
            return None
        except _ERRORS as error:
            reason = str(error) or repr(error)
            self.results.failures.append(Failure(section, metric, subject, reason))
            return None

    def _fill(self, system: System) -> None:
        self.progress.phase(f"fill {system.name}", len(data_set(system, self.settings)))
        primary = system.start_primary()
        count, seconds = fill(system, primary, self.settings, self.progress.step)
        self._pairs.append(Pair(system, primary))
        self.results.notes.append(
            f"{system.name}: {count:,} files uploaded over {self.settings.fill_connections} "
            f"connections at {count / seconds:,.0f}/s; {len(system.projects)} projects in rotation"
        )

    def _replicas(self) -> None:
        """Start fresh replicas in each round, or one each; the last of each system stays."""
        rounds = self.settings.rounds if self._is_wanted("catchup") else 1
        self._catch_up_all(catchup.TAIL, self._pairs, rounds)
        if self._is_wanted("catchup"):
            able = [pair for pair in self._pairs if self._cut(pair)]
            self._catch_up_all(catchup.SNAPSHOT, able, rounds)

    def _cut(self, pair: Pair) -> bool:
        subject = f"{pair.system.name} primary"
        work = partial(pair.system.cut_log, pair.primary)
        return bool(self._attempt("catchup", catchup.SNAPSHOT, subject, work))

    def _catch_up_all(self, metric: str, pairs: Sequence[Pair], rounds: int) -> None:
        self.progress.phase(f"catch up {metric}", rounds * len(pairs))
        for round_ in range(rounds):
            for pair in _shuffled(pairs):
                work = partial(self._catch_up, metric, pair, round_)
                self._attempt("catchup", metric, f"{pair.system.name} replica", work)
                self.progress.step()

    def _catch_up(self, metric: str, pair: Pair, round_: int) -> None:
        if pair.replica is not None:
            self.processes.end(pair.replica.process)
            pair.replica = None
        hosted = len(data_set(pair.system, self.settings))
        pair.replicas += 1
        pair.replica, values = catchup.measure(pair.system, pair.primary, pair.replicas, hosted)
        if not self._is_wanted("catchup"):
            return
        self.results.add("catchup", metric, pair.replica.name, round_, values)
        if pair.system.is_slow:  # it has no snapshots: its one way stands beside both of ours
            self.results.add("catchup", catchup.SNAPSHOT, pair.replica.name, round_, values)

    def _collect_targets(self) -> None:
        """All running servers; nginx gets the bytes of the first system's primary."""
        for pair in self._pairs:
            self._targets += [t for t in (pair.primary, pair.replica) if t is not None]
        if self.nginx_program and self._targets:
            work = partial(
                nginx.start,
                self.nginx_program,
                self.directory,
                self.processes,
                self._targets[0],
            )
            target = self._attempt("start", "copy pages and files", "nginx", work)
            self._targets += [target] if target is not None else []

    def _sample_memory(self, metric: str) -> None:
        if self._is_wanted("memory"):
            memory.sample(self._targets, metric, self.results)

    def _rounds(self, section: str, cells: Sequence[Cell]) -> None:
        """Measure all cells once a round; servers in random order, one metric after another.

        A cell that failed once is left out of later rounds.
        """
        self.progress.phase(section, self.settings.rounds * len(cells))
        metrics = list(dict.fromkeys(cell.metric for cell in cells))
        failed: set[tuple[str, str]] = set()
        for round_ in range(self.settings.rounds):
            for metric in metrics:
                for cell in _shuffled([c for c in cells if c.metric == metric]):
                    self.progress.step()
                    if (cell.metric, cell.subject) in failed:
                        continue
                    work = partial(cell.measure, round_)
                    values = self._attempt(section, cell.metric, cell.subject, work)
                    if values is None:
                        failed.add((cell.metric, cell.subject))
                    else:
                        self.results.add(section, cell.metric, cell.subject, round_, values)

    def _page_cells(self, cases: Sequence[pages.PageCase]) -> list[Cell]:
        def cell(case: pages.PageCase, target: Target) -> Cell:
            prepare = cache(partial(pages.prepare, target, case))
            return Cell(
                case.name, target.name, lambda _: pages.measure(target, prepare(), self.settings)
            )

        return [cell(case, target) for case in cases for target in self._targets]

    def _file_cells(self) -> list[Cell]:
        def cell(case: files.FileCase, target: Target) -> Cell:
            prepare = cache(partial(files.prepare, target, case))
            return Cell(
                case.name,
                target.name,
                lambda _: files.measure(target, case, prepare(), self.settings),
            )

        return [cell(case, target) for case in files.CASES for target in self._targets]

    def _lag_cells(self) -> list[Cell]:
        def cell(pair: Pair, replica: Target) -> Cell:
            return Cell(
                "upload to page",
                replica.name,
                lambda round_: writes.measure_lag(
                    pair.system, pair.primary, replica, self.settings, round_
                ),
            )

        return [cell(pair, pair.replica) for pair in self._pairs if pair.replica is not None]

    def _upload_cells(self) -> list[Cell]:
        def cell(case: writes.UploadCase, pair: Pair) -> Cell:
            return Cell(
                case.name,
                pair.primary.name,
                lambda round_: writes.measure_uploads(
                    pair.system, pair.primary, case, self.settings, round_
                ),
            )

        return [cell(case, pair) for case in writes.UPLOAD_CASES for pair in self._pairs]


def _shuffled(items: Sequence[T]) -> list[T]:
    return random.sample(items, len(items))
