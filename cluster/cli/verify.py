"""`pymirror verify`: does one node hold and serve what another does? Cheapest questions first."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
from attrs import define, field
from rich.progress import Progress

from cluster.auth.nodekeys import KEY_FILE, read_key
from cluster.cli.asking import NodeAnswers, NotAdmitted
from cluster.cli.comparing import (
    Difference,
    OtherTables,
    Pair,
    Trouble,
    compare_files,
    compare_log,
    compare_pages,
    compare_state,
)
from cluster.cli.pace import Pace
from cluster.errors import InvalidRequest, PymirrorError
from cluster.sizes import parse_size

LEVELS = ("log", "state", "pages", "files")
EQUAL, DIFFERENT, UNABLE = 0, 1, 2
_SHOWN = 20
_ADVICE = "ask in the name of a node: --state-dir of one that joined by a token and was not revoked"


@define
class Report:
    """What each level found; `unable` is why one could not be decided."""

    levels: dict[str, dict[str, Any]] = field(factory=dict)
    differences: list[str] = field(factory=list)
    unable: list[str] = field(factory=list)

    @property
    def exit_code(self) -> int:
        """0 equal, 1 different, 2 could not find out."""
        if self.differences:
            return DIFFERENT
        return UNABLE if self.unable else EQUAL


@click.command()
@click.argument("url")
@click.option("--against", required=True, metavar="URL", help="The node to compare with.")
@click.option(
    "--level",
    type=click.IntRange(1, 4),
    default=3,
    show_default=True,
    help="1 the log, 2 and the index state, 3 and pages as served, 4 and the bytes of files.",
)
@click.option(
    "--sample", type=click.IntRange(1), default=200, show_default=True,
    help="How many projects are looked at in levels 3 and 4, by chance.",
)  # fmt: skip
@click.option("--all", "everything", is_flag=True, help="Look at every project.")
@click.option(
    "--rate", metavar="RATE", callback=lambda _, __, text: _rate(text),
    help="Read files (level 4) at no more than so many bytes a second, such as 50MB/s; both nodes "
    "together [default: one file at a time, as fast as it comes].",
)  # fmt: skip
@click.option(
    "--state-dir",
    envvar="PYMIRROR_STATE_DIR",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="State folder of a node, which may run: ask in its name, by its key if it joined by a "
    "token. With --require-node-keys there is no other way.",
)
@click.option(
    "--secret-file",
    envvar="PYMIRROR_SECRET_FILE",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="The cluster's secret [default: STATE-DIR/secret]. Nodes answer all but level 1 only to "
    "each other.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def verify(
    url: str, against: str, level: int, sample: int, everything: bool, rate: int | None,
    state_dir: Path | None, secret_file: Path | None, as_json: bool,
) -> None:  # fmt: skip
    """Compare the node at URL with another one.

    Exit status: 0 they are equal, 1 they differ (the first differences are listed), 2 that could
    not be found out.
    """
    nodes = url.rstrip("/"), against.rstrip("/")
    asking, some = _asking(state_dir, secret_file, nodes), None if everything else sample
    pair = Pair(asking, *nodes, some, Pace(rate, time.monotonic, time.sleep).read)
    report = Report()
    checks: tuple[Callable[..., dict[str, Any]], ...] = (
        compare_log, compare_state, compare_pages, compare_files,
    )  # fmt: skip
    with Progress(disable=as_json, transient=True) as progress:
        for name, check in list(zip(LEVELS, checks, strict=True))[:level]:
            if not _checked(report, name, check, pair, progress):
                break
    _show(report, as_json)
    raise SystemExit(report.exit_code)


def _rate(text: str | None) -> int | None:
    """Bytes a second; raises BadParameter."""
    if text is None:
        return None
    try:
        rate = parse_size(text.strip().removesuffix("/s"))
    except InvalidRequest:
        rate = 0
    if rate <= 0:
        raise click.BadParameter(f"{text!r} is not a rate such as 50MB/s")
    return rate


def _asking(
    state_dir: Path | None, secret_file: Path | None, nodes: tuple[str, str]
) -> NodeAnswers:
    """In whose name is asked: that of a folder's node, of anybody with the secret, or nobody's."""
    uuid, key = f"verify-{secrets.token_hex(4)}", None
    try:
        if state_dir is not None:
            uuid, key = (state_dir / "uuid").read_text().strip(), read_key(state_dir / KEY_FILE)
            own = state_dir / "secret"
            secret_file = secret_file or (own if own.exists() else None)
        secret = None if secret_file is None else secret_file.read_bytes().strip()
    except (OSError, PymirrorError) as error:
        raise click.ClickException(f"the node's identity cannot be read: {error}") from None
    return NodeAnswers(secret, uuid, time.time, key, nodes)


def _checked(
    report: Report, name: str, check: Callable[..., dict[str, Any]], pair: Pair, progress: Progress
) -> bool:
    """Run one level; False when the next ones make no sense."""
    task = progress.add_task(f"comparing the {name}", total=None)

    def told(done: int, total: int) -> None:
        progress.update(task, completed=done, total=total)

    try:
        report.levels[name] = {"equal": True, **check(pair, told)}
    except Difference as found:
        report.levels[name] = {"equal": False}
        report.differences += found.what
    except NotAdmitted as refused:
        report.levels[name] = {"equal": None}
        report.unable.append(f"{name}: {refused} ({_ADVICE})")
    except (Trouble, PymirrorError) as trouble:
        report.levels[name] = {"equal": None}
        report.unable.append(f"{name}: {trouble}")
        return isinstance(trouble, OtherTables)
    finally:
        progress.remove_task(task)
    return report.levels[name]["equal"] is True


def _show(report: Report, as_json: bool) -> None:
    if as_json:
        document = {
            "equal": report.exit_code == EQUAL, "levels": report.levels,
            "differences": report.differences, "unable": report.unable,
        }  # fmt: skip
        click.echo(json.dumps(document, indent=2))
        return
    for name, found in report.levels.items():
        facts = ", ".join(f"{value} {key}" for key, value in found.items() if key != "equal")
        word = {True: "equal", False: "DIFFERENT", None: "not known"}[found["equal"]]
        click.echo(f"{name:6} {word}" + (f" ({facts})" if facts else ""))
    for line in report.differences[:_SHOWN]:
        click.echo(f"  differs: {line}", err=True)
    if len(report.differences) > _SHOWN:
        click.echo(f"  and {len(report.differences) - _SHOWN} more", err=True)
    for line in report.unable:
        click.echo(f"  could not: {line}", err=True)
