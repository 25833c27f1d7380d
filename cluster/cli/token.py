"""`pymirror token`: make, list and revoke API tokens on a running node."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from urllib.parse import quote, urlencode

import click
from rich.console import Console
from rich.table import Table

from cluster.auth.tokens import ACTIONS, DEFAULT_DAYS, MOST_DAYS
from cluster.cli.index import RequestFailed, send

Command = Callable[..., None]


@click.group()
def token() -> None:
    """API tokens for CI and other machines."""


def _who(command: Command) -> Command:
    """The options that say which node is asked, and by whom."""
    for option in (
        click.option(
            "--password",
            envvar="PYMIRROR_PASSWORD",
            prompt=True,
            hide_input=True,
            help="The password or a login token [default: $PYMIRROR_PASSWORD, else asked for].",
        ),
        click.option("--user", required=True, envvar="PYMIRROR_USER", help="Who asks."),
        click.option(
            "--url",
            default="http://127.0.0.1:3141",
            show_default=True,
            envvar="PYMIRROR_URL",
            help="Any node of the cluster.",
        ),
    ):
        command = option(command)
    return command


@token.command()
@click.option(
    "--action",
    "actions",
    multiple=True,
    required=True,
    type=click.Choice(sorted(ACTIONS)),
    help="What it may be used for; may be given more than once.",
)
@click.option(
    "--index",
    "indexes",
    multiple=True,
    metavar="USER/INDEX",
    help="Where [default: everywhere]; may be given more than once.",
)
@click.option(
    "--project",
    "projects",
    multiple=True,
    metavar="NAME",
    help="For which projects [default: all]; may be given more than once.",
)
@click.option(
    "--days",
    type=click.IntRange(1, MOST_DAYS),
    default=DEFAULT_DAYS,
    show_default=True,
    help="How long it is good.",
)
@click.option("--description", default="", help="What it is for, for the list.")
@click.option("--for", "owner", metavar="USER", help="Whose token it is [default: --user's].")
@_who
def create(
    actions: tuple[str, ...], indexes: tuple[str, ...], projects: tuple[str, ...], days: int,
    description: str, owner: str | None, url: str, user: str, password: str,
) -> None:  # fmt: skip
    """Make a token and print it: it is shown this once."""
    body: dict[str, Any] = {
        "actions": actions, "indexes": indexes, "projects": projects, "expires_days": days,
        "description": description,
    }  # fmt: skip
    if owner is not None:
        body["user"] = owner
    made = _ask("POST", url, "", body, user, password)["result"]
    click.echo(f"token {made['id']} of {made['user']}, good until {made['expires']}:", err=True)
    click.echo(made["token"])


@token.command("list")
@click.option("--of", "owner", metavar="USER", help="Whose tokens [root only; default: all].")
@_who
def list_tokens(owner: str | None, url: str, user: str, password: str) -> None:
    """List tokens: what they are for, when they end, when they were last used."""
    query = "" if owner is None else f"?{urlencode({'user': owner})}"
    found = _ask("GET", url, query, None, user, password)["result"]
    table = Table("id", "user", "may", "indexes", "projects", "expires", "last used", "for")
    for one in found:
        expires = f"{one['expires'] or 'never'}{' (over)' if one['expired'] else ''}"
        names = (" ".join(one[key]) or "all" for key in ("indexes", "projects"))
        table.add_row(
            one["id"], one["user"], " ".join(one["actions"]), *names, expires,
            one["last_used"] or "never", one["description"],
        )  # fmt: skip
    Console(soft_wrap=True).print(table)


@token.command()
@click.argument("token_id", metavar="ID")
@_who
def revoke(token_id: str, url: str, user: str, password: str) -> None:
    """Revoke the token ID; every node refuses it as soon as it hears of that."""
    _ask("DELETE", url, f"/{quote(token_id, safe='')}", None, user, password)
    click.echo(f"token {token_id} revoked")


def _ask(
    method: str, url: str, rest: str, body: object, user: str, password: str
) -> dict[str, Any]:
    try:
        return send(method, f"{url.rstrip('/')}/+tokens{rest}", body, user, password)
    except RequestFailed as error:
        raise click.ClickException(str(error)) from None
