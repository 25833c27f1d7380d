"""`pymirror node`: invite nodes, list those that have keys, revoke."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import click
from rich.console import Console
from rich.table import Table

from cluster.auth.tokens import rfc3339
from cluster.cli.index import RequestFailed, send
from cluster.cli.token import Command
from cluster.protocol import INVITE_PATH, KEYS_PATH


@click.group()
def node() -> None:
    """Nodes: let new replicas join, and shut out those that must not follow any more."""


def _root(command: Command) -> Command:
    """The options that say which node is asked, and root's password."""
    for option in (
        click.option(
            "--password",
            envvar="PYMIRROR_PASSWORD",
            prompt=True,
            hide_input=True,
            prompt_required=False,
            default="",
            help="Root's password [default: $PYMIRROR_PASSWORD, else empty]; without a value: "
            "asked for.",
        ),
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


@node.command()
@click.option(
    "--hours",
    type=click.IntRange(1, 720),
    default=24,
    show_default=True,
    help="How long it is good.",
)
@_root
def invite(hours: int, url: str, password: str) -> None:
    """Make a join token, good for one new replica, and print it: it is shown this once.

    Start the replica with --join-token-file FILE, or PYMIRROR_JOIN_TOKEN, and --primary-url.
    """
    made = _ask("POST", f"{url.rstrip('/')}{INVITE_PATH}", {"hours": hours}, password)["result"]
    ends = rfc3339(made["ends"])
    click.echo(f"join token {made['id']}, for one replica, good until {ends}:", err=True)
    click.echo(made["token"])


@node.command("list")
@_root
def list_nodes(url: str, password: str) -> None:
    """List the nodes that joined by a key, and those that were revoked."""
    found = _ask("GET", f"{url.rstrip('/')}{KEYS_PATH}", None, password)["result"]
    table = Table("state", "name", "serial")
    table.add_column("node", no_wrap=True)
    for one in found:
        state = "revoked" if one["revoked"] else "admitted"
        table.add_row(state, one["name"] or "", str(one["serial"]), one["node"])
    Console(soft_wrap=True).print(table)


@node.command()
@click.argument("uuid")
@_root
def revoke(uuid: str, url: str, password: str) -> None:
    """Admit the node UUID no more (its status shows that uuid); this is final.

    It still knows the secret that nodes share: run all nodes with --require-node-keys, and after
    a break-in replace the secret (docs/protocol.md, Revocation).
    """
    path = f"{url.rstrip('/')}{KEYS_PATH}/{quote(uuid, safe='')}"
    click.echo(_ask("DELETE", path, None, password)["message"])


def _ask(method: str, url: str, body: object, password: str) -> dict[str, Any]:
    try:
        return send(method, url, body, "root", password)
    except RequestFailed as error:
        raise click.ClickException(str(error)) from None
