"""`pymirror index create`: a PUT to a running node, as devpi-client would send it."""

from __future__ import annotations

import base64
import json
import urllib.error
import urllib.request
from http.client import HTTPException
from typing import Any

import click

from cluster.cli.asking import OPENER


class RequestFailed(Exception):
    """A node refused; `status` is its HTTP status, 0 when there was no answer."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@click.group()
def index() -> None:
    """Indexes on a running node."""


@index.command()
@click.argument("name", metavar="USER/INDEX")
@click.option(
    "--url",
    default="http://127.0.0.1:3141",
    show_default=True,
    envvar="PYMIRROR_URL",
    help="Any node of the cluster.",
)
@click.option(
    "--base",
    "bases",
    multiple=True,
    metavar="USER/INDEX",
    help="Inherit from this index; may be given more than once.",
)
@click.option("--mirror-url", help="Make a mirror of this upstream's simple API.")
@click.option(
    "--upload",
    "uploaders",
    multiple=True,
    metavar="USER",
    help="Who may upload [default: the owner]; may be given more than once.",
)
@click.option("--user", default="root", show_default=True, help="Who asks.")
@click.option(
    "--password",
    envvar="PYMIRROR_PASSWORD",
    default="",
    help="The password [default: $PYMIRROR_PASSWORD, else empty].",
)
def create(
    name: str, url: str, bases: tuple[str, ...], mirror_url: str | None,
    uploaders: tuple[str, ...], user: str, password: str,
) -> None:  # fmt: skip
    """Create the index USER/INDEX: for uploads, or with --mirror-url a mirror of an upstream."""
    if name.count("/") != 1:
        raise click.UsageError(f"{name!r} is not of the form USER/INDEX")
    options: dict[str, Any] = {"type": "stage"}
    if mirror_url:
        if bases:
            raise click.UsageError("a mirror has no bases")
        options = {"type": "mirror", "mirror_url": mirror_url}
    elif bases:
        options["bases"] = list(bases)
    if uploaders:
        options["acl_upload"] = list(uploaders)
    try:
        send("PUT", f"{url.rstrip('/')}/{name}", options, user, password)
    except RequestFailed as error:
        raise click.ClickException(str(error)) from None
    click.echo(f"created {name}: {url.rstrip('/')}/{name}/+simple/")


def send(method: str, url: str, body: object, user: str, password: str) -> dict[str, Any]:
    """Send JSON (nothing for None) with Basic credentials to a node; raises RequestFailed."""
    credentials = base64.b64encode(f"{user}:{password}".encode()).decode()
    headers = {
        "Accept": "application/json",
        "Authorization": f"Basic {credentials}",
        "Content-Type": "application/json",
    }
    data = None if body is None else json.dumps(body).encode()
    try:
        request = urllib.request.Request(url, data, headers, method=method)  # noqa: S310
        with OPENER.open(request, timeout=60) as answer:
            result: dict[str, Any] = json.load(answer)
            return result
    except urllib.error.HTTPError as error:
        text = error.read(65_536).decode("utf-8", "replace")
        try:
            text = str(json.loads(text)["message"])
        except (ValueError, KeyError, TypeError):
            text = text.strip() or error.reason
        raise RequestFailed(error.code, f"{error.code}: {text}") from None
    except (OSError, ValueError, HTTPException) as error:
        raise RequestFailed(0, f"{url} cannot be reached: {error}") from None
