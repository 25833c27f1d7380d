"""``python -m bench.snapshot``: a fresh replica of a long log, by snapshot or by its tail alone;
prints what it took.

The log is made offline, in the folder that is given or a temporary one, because a million uploads
would take most of an hour. Then real processes run: a primary that makes its snapshot, and a
replica that starts from it; without a snapshot it reads the log from its first entry.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import click

from bench.client import Address, free_port, get, is_answering, now
from bench.longlog import make_log
from bench.processes import ProcessGroup, ServerProcess
from bench.pymirror import CHECKOUT
from cluster.cli.snapshot import make_snapshot

_SECONDS = 900.0
# A replica that is asked all the time has less of it for its work.
_POLL_SECONDS = 0.25


def _start(
    group: ProcessGroup, folder: Path, role: str, *options: str
) -> tuple[ServerProcess, Address]:
    address = Address(free_port())
    process = group.start(
        role,
        [
            str(Path(sys.executable).parent / "twistd"), "-n", "--pidfile=", f"pymirror-{role}",
            "--state-dir", str(folder / role), "--secret-file", str(folder / "secret"),
            "--no-search", "--listen", f"tcp:{address.port}:interface={address.host}", *options,
        ],
        CHECKOUT,
        {"PYTHONPATH": str(CHECKOUT)},
    )  # fmt: skip
    return process, address


def _peak_bytes(process: ServerProcess) -> int:
    for line in Path(f"/proc/{process.pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return 0


def _timed(say: str, work: Callable[[], object]) -> float:
    start = now()
    work()
    seconds = now() - start
    click.echo(f"{say}: {seconds:.1f} s")
    return seconds


def measure(folder: Path, entries: int, by: str) -> None:
    """Make the log unless the folder has one, run the two nodes, and print the numbers."""
    if not (folder / "primary").exists():
        _timed(f"made a log of {entries} entries", lambda: make_log(folder / "primary", entries))
    group = ProcessGroup(folder)
    try:
        primary, at = _start(group, folder, "primary", "--snapshot-every", "0")
        primary.wait_until(lambda: is_answering(at, "/+ready"), _SECONDS)
        if by == "snapshot":
            _make_snapshot(primary, at)
        _replica(group, folder, at, by)
    finally:
        group.end_all()


def _make_snapshot(primary: ServerProcess, at: Address) -> None:
    before = _peak_bytes(primary)
    _timed("the primary made a snapshot", lambda: make_snapshot(at.url, "root", ""))
    click.echo(f"  its memory grew by {(_peak_bytes(primary) - before) >> 20} MiB at most")
    newest = get(at, "/+status").json()["snapshots"][-1]
    click.echo(f"  {newest['bytes'] >> 20} MiB in {newest['chunks']} chunks")


def _replica(group: ProcessGroup, folder: Path, at: Address, by: str) -> None:
    head, start = get(at, "/+status").json()["serial"], now()
    replica, here = _start(group, folder, "replica", "--primary-url", at.url)
    replica.wait_until(lambda: is_answering(here, "/+status"), _SECONDS)
    before, follows, cpu = _peak_bytes(replica), now(), replica.cpu_seconds()
    replica.wait_until(lambda: is_answering(here, "/+ready"), _SECONDS, _POLL_SECONDS)
    end, cpu = now(), replica.cpu_seconds() - cpu
    if get(here, "/+status").json()["serial"] < head:
        raise click.ClickException("the replica is ready before it has everything")
    click.echo(
        f"a fresh replica was ready in {end - start:.1f} s, {end - follows:.1f} s of it by {by}: "
        f"{head / (end - follows):,.0f} entries/s"
    )
    click.echo(f"  its CPU: {cpu:.1f} s, {cpu / head * 1e6:.1f} µs an entry")
    click.echo(f"  its memory grew by {(_peak_bytes(replica) - before) >> 20} MiB at most")


@click.command()
@click.option("--entries", default=1_000_000, show_default=True, type=click.IntRange(30_000))
@click.option("--folder", type=click.Path(path_type=Path), help="Keep the log here between runs.")
@click.option(
    "--by", default="snapshot", show_default=True, type=click.Choice(["snapshot", "tail"])
)
def main(entries: int, folder: Path | None, by: str) -> None:
    """Measure how a fresh replica takes over a long log."""
    with tempfile.TemporaryDirectory() as temporary:
        measure(folder or Path(temporary), entries, by)


if __name__ == "__main__":
    main()
