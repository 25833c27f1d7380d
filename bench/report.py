"""What a run shows: one table a section, the goals of the project, a JSON file."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Iterator
from pathlib import Path

from attrs import asdict, frozen
from rich.console import Console
from rich.table import Table

from bench import catchup
from bench.results import Results
from bench.settings import SECTIONS, Settings


@frozen
class Column:
    """A figure: its heading, its key in a sample, the factor to the unit shown, the digits."""

    title: str
    value: str
    factor: float = 1.0
    digits: int = 1


_LATENCY = (Column("p50 ms", "p50", 1e3, 2), Column("p99 ms", "p99", 1e3, 2))
_COLUMNS: dict[str, tuple[Column, ...]] = {
    "pages": (Column("req/s", "rate", 1, 0), Column("CPU µs", "cpu", 1e6, 0), *_LATENCY),
    "files": (
        Column("MB/s", "mb_rate", 1, 0),
        Column("req/s", "rate", 1, 0),
        Column("CPU ms", "cpu", 1e3, 2),
    ),
    "catchup": (
        Column("entries/s", "rate", 1, 0),
        Column("files/s", "files_rate", 1, 0),
        Column("CPU µs", "cpu", 1e6, 0),
        Column("entries", "entries", 1, 0),
        Column("s", "seconds", 1, 2),
        Column("s from start", "start_seconds", 1, 2),
    ),
    "lag": (*_LATENCY, Column("max ms", "max", 1e3, 1), Column("uploads", "uploads", 1, 0)),
    "uploads": (Column("uploads/s", "rate", 1, 1), Column("CPU ms", "cpu", 1e3, 2)),
    "memory": (Column("RSS MB", "rss", 1e-6), Column("PSS MB", "pss", 1e-6)),
}
_REFERENCES = ("nginx", "devpi")


def print_report(results: Results, console: Console) -> None:
    """Print the tables, what failed, and how the figures stand to the goals."""
    for section in SECTIONS:
        if results.metrics(section):
            console.print(_table(results, section))
    for failure in results.failures:
        console.print(
            f"[bold red]failed[/] {failure.section}, {failure.metric}, {failure.subject}: "
            + failure.reason.replace("[", "\\[")
        )
    for note in results.notes:
        console.print(f"note: {note}")
    for text, value, met in goals(results):
        console.print(f"goal {'[green]met[/]' if met else '[red]missed[/]'}: {text}: {value}")


def reference_of(subject: str, system: str) -> str | None:
    """The subject that another is compared with, e.g. ``devpi replica`` for ``pymirror replica``.

    None where a comparison says nothing (a subject with itself, devpi with pymirror).
    """
    if system == "nginx":
        return None if subject == "nginx" else "nginx"
    return subject.replace("pymirror", system) if subject.startswith("pymirror") else None


def _table(results: Results, section: str) -> Table:
    rows = [
        (metric, subject, cells)
        for metric in results.metrics(section)
        for subject in results.subjects(section)
        if any(cells := _cells(results, section, metric, subject))
    ]
    titles = [c.title for c in _COLUMNS[section]] + [
        *(f"× {reference}" for reference in _REFERENCES),
        *(f"× {reference} CPU" for reference in _REFERENCES),
        "errors",
    ]
    # A column that is empty throughout (no errors, no nginx) says nothing.
    shown = [at for at in range(len(titles)) if any(cells[at] for _, _, cells in rows)]
    table = Table(title=section, title_justify="left")
    table.add_column("", no_wrap=True)
    table.add_column("server", no_wrap=True)
    for at in shown:
        table.add_column(titles[at], justify="right", no_wrap=True)
    for number, (metric, subject, cells) in enumerate(rows):
        if number and rows[number - 1][0] != metric:
            table.add_section()
        table.add_row(metric, subject, *(cells[at] for at in shown))
    return table


def _cells(results: Results, section: str, metric: str, subject: str) -> list[str]:
    columns = _COLUMNS[section]
    figures = [
        _number(results.median(section, metric, subject, c.value), c.factor, c.digits)
        for c in columns
    ]
    if not any(figures):
        return []
    # The first column that has a figure is what the section is about.
    main = next(c.value for c, figure in zip(columns, figures, strict=True) if figure)
    ratios = [
        _ratio(results, section, metric, subject, system, value)
        for value in (main, "cpu")
        for system in _REFERENCES
    ]
    errors = results.total(section, metric, subject, "errors")
    return [*figures, *ratios, f"[red]{errors:.0f}[/]" if errors else ""]


def _number(value: float | None, factor: float, digits: int) -> str:
    return "" if value is None else f"{value * factor:,.{digits}f}"


def _ratio(
    results: Results, section: str, metric: str, subject: str, system: str, value: str
) -> str:
    """The ratio to the peer of that system, to three digits."""
    other = reference_of(subject, system)
    ratio = other and results.ratio(section, metric, subject, other, value)
    return "" if not ratio else f"{ratio:,.3g}" if ratio < 100 else f"{ratio:,.0f}"


# Of shorter ones the start is most of it: python -m bench.snapshot --by tail makes a long one.
_LONG_LOG = 20_000


def goals(results: Results) -> Iterator[tuple[str, str, bool]]:
    """The goals that this run has figures for: text, value, whether met. They judge nothing."""
    for role in ("primary", "replica"):
        ours, theirs = f"pymirror {role}", f"devpi {role}"
        ratio = results.ratio("pages", "small pip", ours, theirs, "rate")
        if ratio is not None:
            yield f"{role}: pages/s at least 25 × devpi's", f"{ratio:,.0f} ×", ratio >= 25
        pss = results.median("memory", "loaded", ours, "pss")
        if pss is not None:
            yield f"{role}: at most 120 MB loaded", f"{pss / 1e6:,.0f} MB", pss <= 120e6
    rate = results.median("catchup", catchup.TAIL, "pymirror replica", "rate")
    entries = results.median("catchup", catchup.TAIL, "pymirror replica", "entries")
    if rate is not None and entries is not None and entries >= _LONG_LOG:
        yield "catch-up by tail at least 10,000 entries/s", f"{rate:,.0f}", rate >= 10_000
    for value, limit in (("p50", 0.010), ("p99", 0.050)):
        lag = results.median("lag", "upload to page", "pymirror replica", value)
        if lag is not None:
            text = f"lag {value} below {limit * 1e3:.0f} ms"
            yield text, f"{lag * 1e3:.1f} ms", lag < limit


def write_json(results: Results, settings: Settings, path: Path) -> None:
    """Write every sample, with what is needed to read it later."""
    document = {
        "settings": asdict(settings),
        "machine": {
            "cpus": os.cpu_count(),
            "python": platform.python_version(),
            "system": platform.platform(),
            "load_average_at_end": os.getloadavg(),
        },
        **asdict(results),
    }
    path.write_text(json.dumps(document, indent=1) + "\n")
