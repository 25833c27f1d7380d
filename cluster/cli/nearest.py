"""`pymirror nearest`: measure the nodes of a cluster from here, and use the best one."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from pathlib import Path
from statistics import median
from typing import Any, Final
from urllib.parse import urlsplit

import click
from attrs import asdict, frozen
from rich.console import Console
from rich.table import Table

from cluster.cli.clientconfig import (
    CannotWrite,
    pip_file,
    poetry_commands,
    uv_file,
    write_pip,
    write_uv,
)
from cluster.errors import InvalidRequest
from cluster.names import index_name
from cluster.nearest import PRIMARY
from cluster.protocol import NEAREST_PATH

_SECONDS: Final = 3.0
_THROUGHPUT_SECONDS: Final = 2.0
_MOST_BYTES: Final = 4 << 20
_FILE_BYTES: Final = 1 << 20
_PAGES: Final = 4


@frozen
class Measured:
    """A node as seen from here; times are medians in seconds, `throughput` bytes a second.

    `cost` is what a few small pages and a file of 1 MiB take; None for a node that gave no
    answer, for which `error` says why.
    """

    url: str
    role: str
    region: str | None
    fresh: bool
    connect_seconds: float | None = None
    latency_seconds: float | None = None
    throughput: float | None = None
    error: str | None = None

    @property
    def cost(self) -> float | None:
        """Seconds."""
        if self.connect_seconds is None or self.latency_seconds is None:
            return None
        transfer = _FILE_BYTES / self.throughput if self.throughput else 0.0
        return self.connect_seconds + _PAGES * self.latency_seconds + transfer


def listed(url: str) -> list[dict[str, Any]]:
    """The nodes that a node hands out; raises ClickException."""
    try:
        with _connection(url) as connection:
            status, body = connection.get(NEAREST_PATH)
        nodes = json.loads(body)["nodes"] if status == 200 else None
    except (OSError, HTTPException, ValueError, KeyError, TypeError) as error:
        raise click.ClickException(f"{url} does not say which nodes there are: {error}") from None
    if not isinstance(nodes, list):
        raise click.ClickException(f"{url} does not say which nodes there are: {status}")
    return [one for one in nodes if isinstance(one, dict) and isinstance(one.get("url"), str)]


class _connection:
    """A connection to a node that is closed in the end."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        kind = HTTPSConnection if parts.scheme == "https" else HTTPConnection
        self._http = kind(parts.hostname or "", parts.port, timeout=_SECONDS)
        self._prefix = parts.path.rstrip("/")

    def __enter__(self) -> _connection:
        self._http.connect()
        return self

    def __exit__(self, *error: object) -> None:
        self._http.close()

    def get(self, path: str, seconds: float = _SECONDS) -> tuple[int, bytes]:
        """Status and body, as much of it as comes in time, at most 4 MiB."""
        end = time.perf_counter() + seconds
        self._http.request("GET", self._prefix + path)
        answer, body = self._http.getresponse(), bytearray()
        while len(body) < _MOST_BYTES and time.perf_counter() < end:
            part = answer.read1(65_536)
            if not part:
                break
            body += part
        return answer.status, bytes(body)


def measure(node: Mapping[str, Any], count: int, index: str | None) -> Measured:
    """Connect `count` times, ask for a small page each time, then for the index's list."""
    role, fresh = str(node.get("role")), node.get("fresh") is True
    url, region = str(node["url"]), node.get("region")
    connects, answers, throughput = [], [], None
    try:
        for _ in range(count):
            begin = time.perf_counter()
            with _connection(url) as connection:
                connected = time.perf_counter()
                status, _body = connection.get("/+ready")
                connects.append(connected - begin)
                answers.append(time.perf_counter() - connected)
            if status != 200:
                return Measured(url, role, region, False, error=f"not ready ({status})")
        if index is not None:
            throughput = _throughput(url, index)
    except (OSError, HTTPException, ValueError) as error:
        return Measured(url, role, region, False, error=str(error) or repr(error))
    return Measured(url, role, region, fresh, median(connects), median(answers), throughput)


def _throughput(url: str, index: str) -> float | None:
    """Bytes a second of the index's project list; None if it is no list, or too short to tell."""
    with _connection(url) as connection:
        begin = time.perf_counter()
        try:
            status, body = connection.get(f"/{index}/+simple/", _THROUGHPUT_SECONDS)
        except OSError:  # a mirror's list may have to be fetched first
            return None
        taken = time.perf_counter() - begin
    return len(body) / taken if status == 200 and len(body) >= 65_536 else None


def best(measured: list[Measured]) -> Measured | None:
    """The fresh replica with the lowest cost; a primary if no replica answers."""
    usable = [one for one in measured if one.fresh and one.cost is not None]
    return min(usable, key=lambda one: (one.role == PRIMARY, one.cost), default=None)


@click.command()
@click.argument("url")
@click.option("--write", "client", type=click.Choice(["pip", "uv", "poetry"]),
              help="Configure this client to use the chosen node.")  # fmt: skip
@click.option("--index", "index", metavar="USER/INDEX",
              help="The index to use, and to measure with [default: root/pypi].")  # fmt: skip
@click.option("--count", default=5, show_default=True, type=click.IntRange(1, 50),
              help="How often each node is asked.")  # fmt: skip
@click.option("--file", "path", type=click.Path(dir_okay=False, path_type=Path),
              help="Configuration file to write [default: the user's].")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def nearest(
    url: str, client: str | None, index: str | None, count: int, path: Path | None, as_json: bool
) -> None:
    """Ask the node at URL for all nodes of its cluster, and measure which is best from here."""
    _check(url, index)
    measured = [measure(node, count, index) for node in listed(url.rstrip("/"))]
    chosen = best(measured)
    if as_json:
        nodes = [{**asdict(one), "cost_seconds": one.cost} for one in measured]
        click.echo(json.dumps({"nodes": nodes, "chosen": chosen and chosen.url}, indent=2))
    else:
        _show(measured, chosen)
    if chosen is None:
        raise click.ClickException("no node answers that may be used now")
    if client is not None:
        _write(client, f"{chosen.url.rstrip('/')}/{index or 'root/pypi'}/+simple/", path, as_json)


def _check(url: str, index: str | None) -> None:
    if urlsplit(url).scheme not in ("http", "https") or not urlsplit(url).hostname:
        raise click.UsageError(f"{url!r} is not the URL of a node such as http://host:3141")
    try:
        user, _, name = (index or "root/pypi").partition("/")
        index_name(user, name)
    except InvalidRequest as error:
        raise click.UsageError(str(error)) from None


def _show(measured: list[Measured], chosen: Measured | None) -> None:
    table = Table("", "node", "role", "region", "connect", "page", "throughput", "state")
    for one in sorted(measured, key=lambda one: (one.cost is None, one.cost or 0.0)):
        speed = "–" if one.throughput is None else f"{one.throughput / 1e6:.1f} MB/s"
        state = one.error or ("fresh" if one.fresh else "stale")
        table.add_row(
            "→" if one is chosen else "", one.url, one.role, one.region or "–",
            _milliseconds(one.connect_seconds), _milliseconds(one.latency_seconds), speed, state,
            style="bold green" if one is chosen else None if one.fresh else "dim",
        )  # fmt: skip
    Console(soft_wrap=True).print(table)


def _milliseconds(seconds: float | None) -> str:
    return "–" if seconds is None else f"{seconds * 1000:.1f} ms"


def _write(client: str, index_url: str, path: Path | None, to_stderr: bool) -> None:
    if client == "poetry":
        click.echo("in the project's folder:", err=to_stderr)
        for command in poetry_commands(index_url):
            click.echo(f"    {command}", err=to_stderr)
        return
    write, default = (write_pip, pip_file) if client == "pip" else (write_uv, uv_file)
    try:
        changed = write(path or default(os.environ), index_url)
    except CannotWrite as error:
        raise click.ClickException(str(error)) from None
    kept = "it is new" if changed.backup is None else f"the old one is {changed.backup}"
    click.echo(f"{changed.path} now says {index_url}; {kept}", err=to_stderr)
    for note in changed.notes:
        click.echo(f"note: {note}", err=to_stderr)
