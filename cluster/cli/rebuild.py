"""`pymirror rebuild`: refill the index state from the change log."""

from __future__ import annotations

from pathlib import Path

import click
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn
from sqlalchemy import Connection

from cluster.durable import FolderLock
from cluster.errors import PymirrorError
from cluster.log import changelog
from cluster.state import schema, upgrade
from cluster.state.apply import digest
from cluster.state.database import open_engine, writing


@click.command()
@click.option(
    "--state-dir",
    required=True,
    envvar="PYMIRROR_STATE_DIR",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="State folder of a node that is not running.",
)
def rebuild(state_dir: Path) -> None:
    """Drop the index state of a stopped node and refill it by replaying its change log.

    The log is the truth and is not touched. Prints whether the state had been what the log
    says; the exit status is 1 if it had not. If this is interrupted, the old state stays.
    Tables of another version, also of a newer program, become those of this one.
    """
    path = state_dir / "log.sqlite"
    if not path.exists():
        raise click.ClickException(f"{state_dir} holds no log: is it a node's state folder?")
    try:
        found, before, after, entries = _refilled(state_dir, path)
    except PymirrorError as error:
        raise click.ClickException(str(error)) from None
    click.echo(f"replayed {entries} entries; the digest of the state is {after}")
    if before is None:
        click.echo(f"the state had been of version {found}, it is of {schema.VERSION} now")
        return
    if before != after:
        click.echo(f"the state had been another one, with digest {before}", err=True)
        raise SystemExit(1)
    click.echo("the state had been the same")


def _refilled(state_dir: Path, path: Path) -> tuple[int, str | None, str, int]:
    """The version before, the digest before (None: of other tables) and after, and the entries."""
    lock = FolderLock(state_dir)
    engine = open_engine(path, changelog.metadata)
    try:
        with writing(engine) as connection:
            _refuse_part(changelog.minimum(connection))
            found = upgrade.version(connection)
            before = digest(connection) if found == schema.VERSION else None
            _replay(connection)
            return found, before, digest(connection), changelog.size(connection)
    finally:
        engine.dispose()
        lock.release()


def _refuse_part(minimum: int) -> None:
    if minimum:
        raise click.ClickException(
            f"the log here begins behind entry {minimum} (the node began with a snapshot, or the "
            "log was compacted), so the state cannot be replayed. A replica gets both anew when "
            "log.sqlite is removed from its folder and it is started"
        )


def _replay(connection: Connection) -> None:
    columns = ("replaying", BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, transient=True) as bar:
        task = bar.add_task("replaying", total=changelog.size(connection))
        upgrade.refill(connection, lambda serial: bar.update(task, completed=serial))
