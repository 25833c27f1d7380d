"""`pymirror promote` and `pymirror demote`: who owns the log, changed by an operator."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import click

from cluster.auth.nodekeys import KEY_FILE, read_key
from cluster.cli.asking import Asked, NodeAnswers
from cluster.errors import PymirrorError
from cluster.log.epochs import Trust
from cluster.promotion import NotPossible, Standing, fork_of, opened, standing
from cluster.promotion import demote as make_replica
from cluster.promotion import promote as own
from cluster.protocol import EPOCHS_PATH, FENCE_PATH, IDENTITY_PATH, identity_proof

Command = Callable[..., None]


def _folder(command: Command) -> Command:
    """The options that say which node's folder is worked on."""
    for option in (
        click.option(
            "--secret-file",
            envvar="PYMIRROR_SECRET_FILE",
            type=click.Path(path_type=Path, exists=True, dir_okay=False),
            help="The cluster's secret [default: STATE-DIR/secret].",
        ),
        click.option(
            "--state-dir",
            required=True,
            envvar="PYMIRROR_STATE_DIR",
            type=click.Path(path_type=Path, exists=True, file_okay=False),
            help="State folder of a node that is not running.",
        ),
    ):
        command = option(command)
    return command


@click.command()
@_folder
@click.option(
    "--former",
    multiple=True,
    metavar="URL",
    help="The primary so far; may be given more than once [default: what the replica followed].",
)
@click.option("--outside-url", help="Where clients and replicas will reach the new primary.")
@click.option("--yes", is_flag=True, help="Do not ask.")
def promote(
    state_dir: Path, secret_file: Path | None, former: tuple[str, ...], outside_url: str | None,
    yes: bool,
) -> None:  # fmt: skip
    """Make a stopped replica the primary of its cluster.

    Asks the primary so far how far it is, says what would be lost, and asks before anything is
    changed. A node that has not heard of the last promotion is refused. The old primary is fenced:
    it takes no more changes, now if it answers, else as soon as it is seen. Then start the folder
    with `twistd pymirror-primary`, with its secret file.
    """
    secret = _secret(state_dir, secret_file)
    urls = list(former) or _followed(state_dir)
    try:
        with opened(state_dir) as engine:
            mine = standing(engine)
            click.echo(f"this node: epoch {mine.epoch}, serial {mine.serial}")
            asked = _asking(state_dir, secret)
            _check_loss(mine, urls, asked)
            if not yes:
                click.confirm("Promote this node?", abort=True)
            for url in urls:
                body = {"epoch": mine.epoch + 1, "url": outside_url}
                done = asked.ask("POST", url + FENCE_PATH, body)
                click.echo(f"{url}: {'fenced' if done.status == 200 else 'will be fenced later'}")
            now = own(state_dir, engine, secret, urls, datetime.now(UTC))
    except PymirrorError as error:
        raise click.ClickException(str(error)) from None
    click.echo(f"promoted: epoch {now.epoch} begins with serial {now.serial}")
    click.echo(f"start it:  twistd pymirror-primary --state-dir {state_dir} …")
    click.echo("then give its URL to every replica, as one more --primary-url")


@click.command()
@_folder
@click.option("--primary-url", required=True, help="The new primary, which must be running.")
@click.option("--yes", is_flag=True, help="Do not ask.")
def demote(state_dir: Path, secret_file: Path | None, primary_url: str, yes: bool) -> None:
    """Make a replica of a stopped old primary, which another node has replaced.

    Entries that the new primary does not have are kept in a file `orphaned-…` in the state folder,
    which `pymirror resubmit` can send to it. Then start the folder with `twistd pymirror-replica`.
    """
    secret, url = _secret(state_dir, secret_file), primary_url.rstrip("/")
    try:
        with opened(state_dir) as engine:
            mine = standing(engine)
            trust = Trust(mine.log, mine.key, secret)
            asked = _asking(state_dir, secret)
            _require_same_log(asked, url, trust)
            fork = fork_of(mine, asked.starts(url + EPOCHS_PATH), trust)
            lost = 0 if fork is None else max(0, mine.serial - fork.serial + 1)
            click.echo(f"entries that only this node has: {lost}")
            if lost and not yes:
                click.confirm("Keep them in a file and take them back here?", abort=True)
            orphans = make_replica(state_dir, engine, fork)
    except PymirrorError as error:
        raise click.ClickException(str(error)) from None
    if orphans is not None:
        click.echo(f"they are in {orphans}; send them with: pymirror resubmit {orphans}")
    click.echo(f"start it:  twistd pymirror-replica --state-dir {state_dir} --primary-url {url} …")


def _secret(state_dir: Path, secret_file: Path | None) -> bytes:
    path = secret_file or state_dir / "secret"
    try:
        return path.read_bytes().strip()
    except OSError as error:
        raise click.ClickException(f"the cluster's secret cannot be read: {error}") from None


def _followed(state_dir: Path) -> list[str]:
    try:
        return (state_dir / "primary-urls").read_text().split()
    except FileNotFoundError:
        return []


def _check_loss(mine: Standing, urls: list[str], asked: NodeAnswers) -> None:
    if not urls:
        click.echo("no primary so far is known: give --former, or nobody can be compared")
    for url in urls:
        answer = asked.ask("GET", url + "/+status")
        serial, epoch = _number(answer, "serial"), _number(answer, "epoch")
        if epoch is not None and epoch > mine.epoch:
            # An epoch has one owner: a second would sign another history under its number.
            raise NotPossible(
                f"{url} is in epoch {epoch} already, this node in {mine.epoch}: let this node "
                "follow it first, or promote one that has"
            )
        if serial is None:
            click.echo(f"{url} does not answer: what it has beyond {mine.serial} would be lost")
        else:
            lost = max(0, serial - mine.serial)
            click.echo(f"{url}: serial {serial}; {lost} entries would be lost")


def _number(answer: Asked, name: str) -> int | None:
    value = answer.values.get(name) if answer.status == 200 else None
    return value if isinstance(value, int) else None


def _require_same_log(asked: NodeAnswers, url: str, trust: Trust) -> None:
    nonce = secrets.token_urlsafe(24)
    answer = asked.ask("GET", f"{url}{IDENTITY_PATH}?nonce={nonce}")
    if answer.status != 200:
        raise click.ClickException(f"{url} does not answer as a primary: {answer.message}")
    expected = identity_proof(trust.secret, nonce, trust.log, trust.key)
    if answer.values.get("log") != trust.log or answer.values.get("proof") != expected:
        raise click.ClickException(f"{url} is not a node of this cluster, or has another log")


def _asking(state_dir: Path, secret: bytes) -> NodeAnswers:
    uuid = (state_dir / "uuid").read_text().strip()
    return NodeAnswers(secret, uuid, time.time, read_key(state_dir / KEY_FILE))
