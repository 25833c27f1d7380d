"""`pymirror snapshot`: have a primary make one now, and see which it keeps."""

from __future__ import annotations

import time
from typing import Any

import click

from cluster.cli.index import RequestFailed, send

_LOOK_SECONDS = 0.2
_LONGEST_SECONDS = 3_600.0

_url = click.option(
    "--url",
    default="http://127.0.0.1:3141",
    show_default=True,
    envvar="PYMIRROR_URL",
    help="The primary.",
)


@click.group()
def snapshot() -> None:
    """Snapshots, from which fresh replicas start."""


@snapshot.command()
@_url
@click.option(
    "--password",
    envvar="PYMIRROR_PASSWORD",
    default="",
    help="Root's password [default: $PYMIRROR_PASSWORD, else empty].",
)
def make(url: str, password: str) -> None:
    """Make a snapshot now, and wait until it is there.

    A primary makes them by itself too (--snapshot-every); it keeps the last two.
    """
    try:
        serial = make_snapshot(url, "root", password)
    except RequestFailed as error:
        raise click.ClickException(str(error)) from None
    click.echo(f"there is a snapshot at serial {serial}")


@snapshot.command("list")
@_url
def list_(url: str) -> None:
    """List the snapshots that the primary keeps, and where its log begins."""
    try:
        status = _status(url)
    except RequestFailed as error:
        raise click.ClickException(str(error)) from None
    if "snapshots" not in status:
        raise click.ClickException(f"{url} is not a primary")
    click.echo(f"the log begins behind {status['minimum']} and ends at {status['serial']}")
    for one in status["snapshots"]:
        click.echo(f"{one['serial']:>12}  {one['bytes']:>14} bytes  {one['time'] or ''}")


def make_snapshot(url: str, user: str, password: str) -> int:
    """Have a primary make a snapshot and wait for it; its serial. Raises RequestFailed."""
    wanted = send("POST", f"{url.rstrip('/')}/+log/snapshots", None, user, password)["serial"]
    for _ in range(int(_LONGEST_SECONDS / _LOOK_SECONDS)):
        status = _status(url)
        if "snapshots" not in status:
            raise RequestFailed(0, f"{url} is not a primary: it passed the request on")
        newest = max((one["serial"] for one in status["snapshots"]), default=0)
        if newest >= wanted:
            return int(newest)
        if status.get("snapshot_error"):
            raise RequestFailed(0, f"it could not be made: {status['snapshot_error']}")
        time.sleep(_LOOK_SECONDS)
    raise RequestFailed(0, f"no snapshot within {_LONGEST_SECONDS:g} s: see the primary's log")


def _status(url: str) -> dict[str, Any]:
    return send("GET", f"{url.rstrip('/')}/+status", None, "", "")
