"""`pymirror resubmit`: send what only a replaced primary had to the one that replaced it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import click
from attrs import define
from rich.console import Console
from rich.progress import track

from cluster.cli.importing import connected, show
from cluster.errors import InvalidRequest, PymirrorError
from cluster.importing.dump import DumpedFile, DumpedIndex, DumpedUser, Thing
from cluster.importing.orphans import NodeFolder, Orphans
from cluster.importing.run import count
from cluster.importing.tally import Tally
from cluster.importing.targets import Outcome, RunningPrimary, Target
from cluster.importing.upload import BrokenOff
from cluster.state import queries
from cluster.state.database import open_engine

_MOST_TOGETHER: Final = 100


@click.command()
@click.argument(
    "files", nargs=-1, required=True, metavar="FILE…",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
)  # fmt: skip
@click.option(
    "--state-dir",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="State folder of the node that kept the entries [default: where the first FILE is].",
)
@click.option(
    "--url",
    default="http://127.0.0.1:3141",
    show_default=True,
    envvar="PYMIRROR_URL",
    help="The running primary.",
)
@click.option("--user", default="root", show_default=True, help="Who sends: root alone may.")
@click.option(
    "--password",
    help="The password [default: $PYMIRROR_PASSWORD, else it is asked for].",
)
@click.option("--dry-run", is_flag=True, help="Say what would be sent; send nothing.")
def resubmit(
    files: tuple[Path, ...], state_dir: Path | None, url: str, user: str, password: str | None,
    dry_run: bool,
) -> None:  # fmt: skip
    """Send the entries of each FILE (orphaned-….log) to the new primary.

    Users, indexes, projects, releases, files, documentation and test results are sent, with what
    the node's folder holds of them; what is there already is counted, so it can be run again. All
    else is listed with what to do. The exit status is 1 if anything was left.
    """
    console = Console(soft_wrap=True, highlight=False)
    folder = NodeFolder(state_dir or files[0].absolute().parent)
    orphans = Orphans(folder)
    try:
        for file in files:
            with file.open("rb") as lines:
                orphans.read(lines)
        if dry_run:
            tally = _send(orphans, Looking(folder), {})
        else:
            with connected(url, user, password) as client:
                tally = _send(orphans, RunningPrimary(client, folder), _passwords(folder.root))
    except (PymirrorError, BrokenOff) as error:
        raise click.ClickException(f"{error}\nIt can be run again.") from None
    show(console, tally, "would be sent" if dry_run else "sent")
    for line in orphans.by_hand:
        console.print(f"by hand, if it is still wanted: {line}", markup=False)
    if orphans.mirrored:
        console.print(f"{orphans.mirrored} entries of mirrors: nothing to do, upstreams have it")
    if tally.lost or orphans.by_hand:
        raise SystemExit(1)


@define
class Looking:
    """Sends nothing, but sees whether the bytes are there."""

    _folder: NodeFolder

    def take(self, things: Sequence[Thing]) -> list[Outcome]:
        """See `Target`."""
        return [self._look(thing) for thing in things]

    def _look(self, thing: Thing) -> Outcome:
        try:
            if isinstance(thing, DumpedFile):
                self._folder.open_path(thing)
        except InvalidRequest as error:
            return Outcome(refused=str(error))
        return Outcome()


def _send(orphans: Orphans, target: Target, known: Mapping[str, str | None]) -> Tally:
    tally = Tally()
    for batch in track(list(orphans.batches()), "sending", transient=True):
        for start in range(0, len(batch), _MOST_TOGETHER):
            things = batch[start : start + _MOST_TOGETHER]
            for thing, outcome in zip(things, target.take(things), strict=True):
                count(tally, thing, outcome)
                if not outcome.is_new:
                    _passwords_stay(orphans, tally, thing, known)
    return tally


def _passwords_stay(
    orphans: Orphans, tally: Tally, thing: Thing, known: Mapping[str, str | None]
) -> None:
    """A primary keeps the passwords of what it has: one that was set later is not there."""
    if isinstance(thing, DumpedIndex) and thing.name in orphans.with_secrets:
        tally.note(thing.name, ["its passwords are those that were there before"])
    if not isinstance(thing, DumpedUser) or thing.name not in known:
        return
    if known[thing.name] != orphans.passwords[thing.name]:
        orphans.by_hand.append(f"change the password: devpi user -m {thing.name} password=…")


def _passwords(state_dir: Path) -> dict[str, str | None]:
    """The blob of each user's password by the node's present state."""
    path = state_dir / "log.sqlite"
    if not path.exists():
        return {}
    engine = open_engine(path)
    try:
        with engine.begin() as connection:
            users = [queries.user(connection, n) for n in queries.user_names(connection)]
    finally:
        engine.dispose()
    return {user.name: user.password for user in users if user is not None}
