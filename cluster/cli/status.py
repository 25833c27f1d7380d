"""`pymirror status`: the cluster as one of its nodes sees it, once or live."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from typing import Any, Final

import click
from attrs import asdict, frozen
from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from cluster.health import Problem, node_name, problems, replica_name
from cluster.protocol import LONGEST_CHAIN

HEALTHY: Final = 0
DEGRADED: Final = 1
UNREACHABLE: Final = 2
_SECONDS: Final = 5.0
_MOST_BYTES: Final = 16 << 20
_COLOURS: Final = {"in-sync": "green", "catching-up": "yellow", "bootstrapping": "yellow",
                   "connecting": "yellow"}  # fmt: skip


@frozen
class Seen:
    """A node's document, that of the primary if it is a replica, and what is wrong.

    `status` is None for a node that gives no answer.
    """

    status: Mapping[str, Any] | None
    primary: Mapping[str, Any] | None
    problems: list[Problem]

    @property
    def code(self) -> int:
        """The exit status."""
        if self.status is None:
            return UNREACHABLE
        return DEGRADED if self.problems else HEALTHY


def look(url: str) -> Seen:
    """Ask a node, and the primary that it follows, through other replicas maybe."""
    status, error = _fetch(url)
    if status is None:
        return Seen(None, None, [Problem(url, error, None, "see whether the node runs")])
    found, at = problems(status), status
    for _ in range(LONGEST_CHAIN + 1):
        owner = _followed(at)
        if owner is None:
            break
        asked, error = _fetch(owner)
        if asked is None:
            hint = "uploads wait until it is back, or a replica is promoted"
            return Seen(status, None, [*found, Problem(owner, error, None, hint)])
        at, found = asked, list(dict.fromkeys([*problems(asked), *found]))
        if at.get("role") == "primary":
            return Seen(status, at, found)
    return Seen(status, None, found)


def _followed(status: Mapping[str, Any]) -> str | None:
    owner = status.get("primary")
    return str(owner["url"]) if isinstance(owner, Mapping) and owner.get("url") else None


def _fetch(url: str) -> tuple[Mapping[str, Any] | None, str]:
    try:
        with urllib.request.urlopen(f"{url}/+status", timeout=_SECONDS) as answer:  # noqa: S310
            value = json.loads(answer.read(_MOST_BYTES))
    except (OSError, ValueError) as error:
        return None, f"no answer: {error}"
    if not isinstance(value, Mapping) or "role" not in value:
        return None, "the answer is not that of a node"
    return value, ""


@click.command()
@click.argument("url", default="http://127.0.0.1:3141", envvar="PYMIRROR_URL")
@click.option("--watch", is_flag=True, help="Go on looking, until Ctrl-C.")
@click.option("--interval", default=2.0, show_default=True, type=click.FloatRange(0.2, 3600),
              help="Seconds between two looks.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def status(url: str, watch: bool, interval: float, as_json: bool) -> None:
    """Show the cluster as the node at URL sees it: nodes, lags, upstreams, and what is wrong.

    The exit status is 0 when all is well, 1 when something is degraded, 2 when the node gives
    no answer.
    """
    url = url.rstrip("/")
    if not url.startswith(("http://", "https://")):
        raise click.UsageError(f"{url!r} is not the URL of a node such as http://host:3141")
    seen = look(url)
    if as_json:
        click.echo(json.dumps(_document(seen), indent=2))
    elif not watch:
        Console().print(draw(url, seen))
    else:
        seen = _watch(url, seen, interval)
    raise SystemExit(seen.code)


def _watch(url: str, seen: Seen, interval: float) -> Seen:
    with Live(draw(url, seen), auto_refresh=False) as live:
        try:
            while True:
                time.sleep(interval)
                seen = look(url)
                live.update(draw(url, seen), refresh=True)
        except KeyboardInterrupt:
            return seen


def _document(seen: Seen) -> dict[str, Any]:
    return {
        "healthy": seen.code == HEALTHY,
        "problems": [asdict(problem) for problem in seen.problems],
        "status": seen.status,
        "primary": seen.primary,
    }


def draw(url: str, seen: Seen) -> Group:
    """What a terminal shows."""
    parts: list[Any] = []
    if seen.status is not None:
        top = seen.primary or seen.status
        identity = top.get("log_identity") or {}
        parts.append(Text.from_markup(
            f"[bold]{escape(url)}[/]  log {str(identity.get('log', '?'))[:8]}  "
            f"epoch {top.get('epoch')}  serial {top.get('serial')}  root {_root(top)}"
        ))  # fmt: skip
        parts += [_nodes(seen.status, seen.primary), *_bootstrap(seen.status), *_upstreams(top)]
        warnings = dict.fromkeys([*top.get("warnings", []), *seen.status.get("warnings", [])])
        parts += [Text(f"warning: {warning}", style="yellow") for warning in warnings]
    for problem in seen.problems:
        since = f" (since {problem.since})" if problem.since else ""
        parts.append(Text(f"✗ {problem.where}: {problem.what}{since}", style="red"))
        if problem.hint:
            parts.append(Text(f"    {problem.hint}", style="dim"))
    if not seen.problems:
        parts.append(Text("✓ healthy", style="green"))
    return Group(*parts)


def _nodes(status: Mapping[str, Any], primary: Mapping[str, Any] | None) -> Table:
    table = Table("node", "role", "region", "state", "position", "lag", "files", "cache", "load",
                  "last contact", "version")  # fmt: skip
    top = primary or status
    if top.get("role") == "primary":
        files = top.get("files", {})
        table.add_row(
            node_name(top), "primary", "–", Text("writes", style="green"), str(top.get("serial")),
            "–", "–", _size(files.get("bytes")), "–", "–", str(top.get("version")),
        )  # fmt: skip
    names = {one.get("uuid"): replica_name(one) for one in top.get("replicas") or []}
    for one in top.get("replicas") or []:
        table.add_row(*_replica(one, names))
    if primary is None and "follower" in status:
        follower, in_sync = status["follower"], status.get("in_sync", {})
        table.add_row(
            node_name(status), "replica", "–", _state(follower.get("state"), True),
            str(status.get("serial")), _lag(follower), _files(in_sync.get("files"), in_sync),
            _size(status.get("files", {}).get("bytes")), "–",
            str(status.get("primary", {}).get("last_contact") or "never"),
            str(status.get("version")),
        )  # fmt: skip
    return table


def _bootstrap(status: Mapping[str, Any]) -> list[Any]:
    """How far a replica is that starts from a snapshot, as two bars."""
    of = status.get("bootstrap")
    if not isinstance(of, dict):
        return []
    grid = Table.grid(padding=(0, 1))
    for what, done, total in (
        (f"snapshot {of.get('serial')}: chunks", of.get("chunks"), of.get("chunks_total")),
        (f"{of.get('phase')}: rows", of.get("rows"), of.get("rows_total")),
    ):
        bar = ProgressBar(total=total or 1, completed=done or 0, width=40)
        grid.add_row(what, bar, f"{done or 0:,} of {total or 0:,}")
    return [grid]


def _replica(one: Mapping[str, Any], names: Mapping[Any, str]) -> list[Any]:
    load, contact = one.get("load"), one.get("last_contact_seconds")
    via = [names.get(node, str(node)[:8]) for node in one.get("via") or []]
    return [
        replica_name(one), f"replica of {via[0]}" if via else "replica", one.get("region") or "–",
        _state(one.get("state"), one.get("healthy", True)), str(one.get("position")), _lag(one),
        _files(one.get("files_in_sync"), one), _size(one.get("cache_bytes")),
        "–" if load is None else f"{load:.2f}",
        "–" if contact is None else f"{contact:.0f} s ago", str(one.get("version") or "–"),
    ]  # fmt: skip


def _state(state: Any, healthy: bool) -> Text:
    colour = _COLOURS.get(str(state), "red") if healthy else "red"
    return Text(str(state or "?"), style=colour)


def _lag(of: Mapping[str, Any]) -> str:
    entries, seconds = of.get("lag_entries") or 0, of.get("lag_seconds") or 0.0
    return f"{entries} entries, {seconds:.1f} s" if entries or seconds else "0"


def _files(in_sync: Any, of: Mapping[str, Any]) -> str:
    missing = of.get("files_missing")
    if in_sync is None:
        return "?"
    return "all" if in_sync else f"{missing} missing" if missing else "some missing"


def _size(value: Any) -> str:
    if not isinstance(value, int):
        return "–"
    size, units = float(value), ["B", "kB", "MB", "GB", "TB"]
    while size >= 1000 and len(units) > 1:
        size /= 1000
        units.pop(0)
    return f"{size:.0f} B" if units[0] == "B" else f"{size:.1f} {units[0]}"


def _root(of: Mapping[str, Any]) -> str:
    return str(of.get("root", "?"))[:12]


def _upstreams(top: Mapping[str, Any]) -> list[Table]:
    upstreams = top.get("upstreams") or {}
    if not upstreams:
        return []
    table = Table("upstream of", "last success", "requests", "failures", "failing", "last error")
    for name, one in upstreams.items():
        table.add_row(
            name, str(one.get("last_success") or "never"), str(one.get("requests")),
            str(one.get("failures", "–")), str(len(one.get("failing", {}))),
            Text(str(one.get("last_error") or "–")[:80]),
        )  # fmt: skip
    return [table]
