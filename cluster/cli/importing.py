"""`pymirror import`: take over what a devpi-server had."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from cluster.errors import InvalidRequest
from cluster.importing.dump import Dump
from cluster.importing.run import Import
from cluster.importing.tally import Tally
from cluster.importing.targets import DryRun, RunningPrimary, Target
from cluster.importing.upload import BrokenOff, PrimaryClient


@click.command("import")
@click.option(
    "--from-devpi",
    "folder",
    required=True,
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="The folder that devpi-export wrote.",
)
@click.option(
    "--url",
    default="http://127.0.0.1:3141",
    show_default=True,
    envvar="PYMIRROR_URL",
    help="The running primary.",
)
@click.option("--user", default="root", show_default=True, help="Who imports: root alone may.")
@click.option(
    "--password",
    help="The password [default: $PYMIRROR_PASSWORD, else it is asked for].",
)
@click.option("--dry-run", is_flag=True, help="Read and verify the dump; change nothing.")
def import_(folder: Path, url: str, user: str, password: str | None, dry_run: bool) -> None:
    """Take over users, indexes, releases, files, docs and tox results of a devpi-server.

    What is there already is skipped and counted, so an import that broke off is run again. The
    exit status is 1 if anything of the dump is not on the primary afterwards.
    """
    console = Console(soft_wrap=True, highlight=False)
    dump = Dump(folder)
    try:
        if dry_run:
            tally, broken = _run(console, dump, DryRun(dump))
        else:
            with connected(url, user, password) as client:
                tally, broken = _run(console, dump, RunningPrimary(client, dump))
    except (InvalidRequest, BrokenOff) as error:
        raise click.ClickException(str(error)) from None
    show(console, tally, "would be imported" if dry_run else "imported")
    if broken is not None:
        raise click.ClickException(f"{broken}\nThe import is not complete; run it again to go on.")
    if tally.lost:
        raise SystemExit(1)


@contextmanager
def connected(url: str, user: str, password: str | None) -> Iterator[PrimaryClient]:
    """A client of the primary at a URL, its password asked for if nobody gave it."""
    if not url.startswith(("http://", "https://")):
        raise click.UsageError(f"--url {url} does not start with http:// or https://")
    if password is None:
        password = os.environ.get("PYMIRROR_PASSWORD")  # may be empty, as a new primary's is
    if password is None:
        password = str(
            click.prompt(f"Password of {user}", hide_input=True, default="", show_default=False)
        )
    client = PrimaryClient(url, user, password)
    try:
        client.check()
        yield client
    finally:
        client.close()


def _run(console: Console, dump: Dump, target: Target) -> tuple[Tally, BrokenOff | None]:
    with console.status("reading the dump's index"):
        survey = dump.survey()
    console.print(f"a dump of devpi-server {survey.server}")
    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
    )  # fmt: skip
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("importing")
        work = Import(dump, survey, target, lambda number: bar.advance(task, number))
        bar.update(task, total=work.total)
        try:
            return work.run(), None
        except BrokenOff as error:
            return work.tally, error


def show(console: Console, tally: Tally, done: str) -> None:
    """Print the counts, the reasons for what was skipped, and the notes."""
    table = Table(box=None, pad_edge=False)
    table.add_column("")
    for heading in (done, "already there", "skipped"):
        table.add_column(heading, justify="right")
    for what, *numbers in tally.rows():
        table.add_row(what, *map(str, numbers))
    console.print(table)
    for heading, lines in (("note", tally.notes), ("skipped", list(tally.reasons()))):
        for line in lines:
            console.print(f"{heading}: {line}", markup=False)
