"""``python -m bench``: the command line of the bench."""

from __future__ import annotations

import signal
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

import click
from attrs import define, evolve, field, frozen
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.progress import Progress as RichProgress

from bench import nginx
from bench.client import BenchError
from bench.data import project_names
from bench.devpi import Devpi, binaries
from bench.load import WRK_HINT, has_wrk
from bench.processes import ProcessGroup
from bench.pymirror import CHECKOUT, Pymirror
from bench.report import print_report, write_json
from bench.results import Results
from bench.run import Run
from bench.settings import SECTIONS, Settings
from bench.subjects import System
from bench.upstream import upstream

_DEVPI_VENV = CHECKOUT / ".venv-bench"
_FILE_WIDTH = 130


@define
class _Bar:
    """Shows phases and steps as a progress bar."""

    bar: RichProgress
    _task: TaskID | None = field(init=False, default=None)

    def phase(self, title: str, steps: int) -> None:
        """See `bench.run.Progress`."""
        self._task = self.bar.add_task(title, total=steps)

    def step(self) -> None:
        """See `bench.run.Progress`."""
        if self._task is not None:
            self.bar.advance(self._task)


def _sections(_: click.Context, __: click.Parameter, value: str) -> list[str]:
    names = [name.strip() for name in value.split(",")]
    for name in names:
        if name not in SECTIONS:
            raise click.BadParameter(f"{name!r} is none of {', '.join(SECTIONS)}")
    return names


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--quick", is_flag=True, help="Less of everything, one round: about two minutes.")
@click.option(
    "--only",
    "sections",
    default=",".join(SECTIONS),
    callback=_sections,
    show_default=True,
    help="What to measure, separated by commas.",
)
@click.option("--rounds", type=click.IntRange(1, 50), help="Interleaved rounds (3; quick: 1).")
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Write all samples.")
@click.option(
    "--devpi-venv",
    type=click.Path(path_type=Path),
    default=_DEVPI_VENV,
    help="Virtual environment with devpi-server (.venv-bench; made if missing).",
)
@click.option("--no-devpi", is_flag=True, help="Leave devpi-server out.")
@click.option("--no-nginx", is_flag=True, help="Leave nginx out.")
@click.option("--no-pymirror", is_flag=True, help="Measure the peers alone.")
def main(
    quick: bool,
    sections: list[str],
    rounds: int | None,
    json_file: Path | None,
    devpi_venv: Path,
    no_devpi: bool,
    no_nginx: bool,
    no_pymirror: bool,
) -> None:
    """Measure pymirror beside nginx and devpi-server on this machine.

    All servers run on loopback with state in a temporary folder. Absolute figures depend on the
    machine and on what else it does; the ratios of one run are what counts.
    """
    settings = Settings.quick() if quick else Settings()
    if rounds is not None:
        settings = evolve(settings, rounds=rounds)
    console = Console()
    if not console.is_terminal:
        console = Console(width=_FILE_WIDTH)
    signal.signal(signal.SIGTERM, _interrupt)
    subjects = _find(devpi_venv, devpi=not no_devpi, nginx_=not no_nginx, pymirror=not no_pymirror)
    results = _measure(settings, sections, subjects, console)
    print_report(results, console)
    if json_file is not None:
        write_json(results, settings, json_file)
    sys.exit(1 if results.failures else 0)


@frozen
class _Subjects:
    """What will be measured: programs that are there and wanted; `notes` name what is missing."""

    pymirror: bool
    nginx: str | None
    devpi_binaries: Path | None
    notes: tuple[str, ...]

    def systems(
        self, settings: Settings, directory: Path, processes: ProcessGroup, upstream_url: str
    ) -> list[System]:
        """The index servers; nginx copies the first."""
        found: list[System] = []
        if self.pymirror:
            names = project_names(settings.projects)
            found.append(Pymirror(directory, processes, names, upstream_url))
        if self.devpi_binaries is not None:
            names = project_names(settings.devpi_projects)
            found.append(Devpi(self.devpi_binaries, directory, processes, names, upstream_url))
        return found


def _find(devpi_venv: Path, *, devpi: bool, nginx_: bool, pymirror: bool) -> _Subjects:
    notes = [] if has_wrk() else [WRK_HINT]
    program = nginx.find() if nginx_ else None
    if nginx_ and program is None:
        notes.append(nginx.HINT)
    folder = None
    try:
        folder = binaries(devpi_venv) if devpi else None
    except BenchError as error:
        notes.append(f"devpi left out: {error}")
    return _Subjects(pymirror, program, folder, tuple(notes))


def _measure(
    settings: Settings, sections: Sequence[str], subjects: _Subjects, console: Console
) -> Results:
    """Run under a progress bar; whatever happens, no server and no file is left behind."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with (
        tempfile.TemporaryDirectory(prefix="pymirror-bench-") as name,
        upstream(settings.big_files) as upstream_url,
        RichProgress(*columns, TimeElapsedColumn(), console=console) as bar,
    ):
        directory = Path(name)
        processes = ProcessGroup(directory)
        systems = subjects.systems(settings, directory, processes, upstream_url)
        run = Run(settings, sections, systems, subjects.nginx, directory, processes, _Bar(bar))
        run.results.notes += subjects.notes
        try:
            run.run()
        finally:
            processes.end_all()
    return run.results


def _interrupt(_: int, __: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    main()
