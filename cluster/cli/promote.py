"""`pymirror promote` and `pymirror demote`: who owns the log, changed by an operator."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import click

from cluster import peers
from cluster.auth.nodekeys import KEY_FILE, read_key
from cluster.cli.asking import NodeAnswers
from cluster.cli.furthest import Others, Place
from cluster.cli.histories import Histories
from cluster.errors import PymirrorError
from cluster.log.epochs import Trust
from cluster.promotion import (
    NO_PRIMARY,
    NotPossible,
    fork_of,
    opened,
    require_unowned,
    root_at,
    standing,
    uuid_of,
)
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
@click.option(
    "--peer",
    multiple=True,
    metavar="URL",
    help="One more node to compare with; those that the folder knows are asked in any case.",
)
@click.option("--outside-url", help="Where clients and replicas will reach the new primary.")
@click.option("--yes", is_flag=True, help="Do not ask: go on, unless too much would be lost.")
@click.option(
    "--may-lose",
    type=click.IntRange(0),
    default=0,
    show_default=True,
    metavar="N",
    help="With --yes: go on if no node has more than N entries that this one lacks.",
)
def promote(
    state_dir: Path, secret_file: Path | None, former: tuple[str, ...], peer: tuple[str, ...],
    outside_url: str | None, yes: bool, may_lose: int,
) -> None:  # fmt: skip
    """Make a stopped replica the primary of its cluster.

    Asks all nodes that are known how far they are, says what would be lost, and asks before
    anything is changed. A node that has not heard of the last promotion is refused. The old
    primary is fenced: it takes no more changes, now if it answers, else as soon as it is seen.
    What it has written until then is compared once more. Then start the folder with `twistd
    pymirror-primary`, with its secret file.
    """
    secret, limit = _secret(state_dir, secret_file), may_lose if yes else None
    urls = _given("--former", former) or _usable(peers.followed(state_dir))
    known = _given("--peer", peer) + _usable(peers.kept(state_dir))
    try:
        with opened(state_dir) as engine:
            mine = standing(engine)
            require_unowned(state_dir, mine)
            click.echo(f"this node: epoch {mine.epoch}, serial {mine.serial}")
            asked = _asking(state_dir, secret)
            known = [url for url in known if url not in (outside_url, *urls)]
            histories = Histories(asked, mine, partial(root_at, engine))
            others = Others(asked, histories, uuid_of(state_dir), urls, known)
            lost = _agree(others.look(), limit)
            # What the replica followed need not be the primary: it may be a replica itself.
            owners = list(dict.fromkeys([*urls, *others.primaries]))
            fenced = [url for url in owners if _fence(asked, url, mine.epoch + 1, outside_url)]
            _agree_again(others.look_again(fenced, lost), limit)
            everybody = list(dict.fromkeys([*urls, *known]))
            now = own(state_dir, engine, secret, everybody, datetime.now(UTC))
    except PymirrorError as error:
        raise click.ClickException(str(error)) from None
    click.echo(f"promoted: epoch {now.epoch} begins with serial {now.serial}")
    click.echo(f"start it:  twistd pymirror-primary --state-dir {state_dir} …")
    click.echo("then give its URL to every replica, as one more --primary-url")


def _given(option: str, urls: tuple[str, ...]) -> list[str]:
    """The URLs that an option was given; raises UsageError."""
    for url in urls:
        if not peers.is_url(url):
            raise click.UsageError(f"{option} must be a URL such as http://host:3141, not {url!r}")
    return [url.rstrip("/") for url in urls]


def _usable(urls: list[str]) -> list[str]:
    """Those of the folder that can be asked; of the others it is said that they are not."""
    for url in urls:
        if not peers.is_url(url):
            click.echo(f"{url!r} in the state folder is no URL: that node is not asked", err=True)
    return [url.rstrip("/") for url in urls if peers.is_url(url)]


def _agree(furthest: Place | None, limit: int | None) -> int:
    """Have the operator agree to what would be lost; how much that is. `limit` instead of asking.

    Raises NotPossible.
    """
    lost = 0 if furthest is None else furthest.lost
    if furthest is None:
        question = "Promote this node?"
    elif furthest.role == "primary":
        question = (
            f"{lost} entries of {furthest.url} would be lost. Promote this node all the same?"
        )
    else:
        question = (
            f"{furthest.url} is further by {lost} entries, which would be lost: better promote "
            "that one. Promote this node all the same?"
        )
    if limit is None:
        click.confirm(question, abort=True)
    elif furthest is not None and lost > limit:
        raise NotPossible(
            f"{furthest.url} has {lost} entries that this node lacks: let it catch up, promote "
            f"that one if it is a replica, or say --may-lose {lost}"
        )
    return lost


def _agree_again(furthest: Place | None, limit: int | None) -> None:
    """The same for what was written between the comparison and the fencing, if anything was."""
    if furthest is None:
        return
    lost = furthest.lost
    advice = (
        f"{furthest.url} takes no more changes and still gives what it has: start this node as a "
        "replica again until it is in sync, then promote it"
    )
    click.echo(f"written meanwhile: {lost} entries of {furthest.url} would be lost now")
    if limit is None and not click.confirm("Promote this node all the same?"):
        raise NotPossible(advice)
    if limit is not None and lost > limit:
        raise NotPossible(f"that is too much; {advice}")


def _fence(asked: NodeAnswers, url: str, epoch: int, outside_url: str | None) -> bool:
    """Order a primary to stop writing; whether it has."""
    # The epoch has not begun: its replicas may still take from it what they lack.
    body = {"epoch": epoch, "url": outside_url, "begun": False}
    answer = asked.ask("POST", url + FENCE_PATH, body)
    if answer.status in NO_PRIMARY:
        click.echo(f"{url}: no primary, so it is not fenced")
    elif answer.status != 200:
        # Whatever it is: who starts as the primary tells it until it answers.
        click.echo(f"{url}: not fenced ({answer.message}); later, if it is a primary")
    else:
        click.echo(f"{url}: fenced")
    return answer.status == 200


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


def _require_same_log(asked: NodeAnswers, url: str, trust: Trust) -> None:
    nonce = secrets.token_urlsafe(24)
    answer = asked.ask("GET", f"{url}{IDENTITY_PATH}?nonce={nonce}")
    if answer.status != 200:
        raise click.ClickException(f"{url} does not answer as a primary: {answer.message}")
    expected = identity_proof(trust.secret, nonce, trust.log, trust.key)
    if answer.values.get("log") != trust.log or answer.values.get("proof") != expected:
        raise click.ClickException(f"{url} is not a node of this cluster, or has another log")


def _asking(state_dir: Path, secret: bytes) -> NodeAnswers:
    return NodeAnswers(secret, uuid_of(state_dir), time.time, read_key(state_dir / KEY_FILE))
