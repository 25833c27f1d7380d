"""``python -m bench.replicas``: one primary with many replicas: lag on each, and what they cost.

For each count: uploads one by one to the primary; after each, every replica's page is asked for
in turn until it has the file. Prints the lag over all replicas, and the primary's memory and CPU.
Replicas that are asked later have had longer, so the first of a round rotates.
"""

from __future__ import annotations

import tempfile
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import click

from bench.client import Connection, get, is_answering, now, upload_body
from bench.data import wheel
from bench.fill import Uploader
from bench.processes import ProcessGroup
from bench.pymirror import Pymirror
from bench.results import percentile
from bench.subjects import Target, page_path
from bench.writes import seconds_until

_PROJECTS = 10
_CATCH_UP_SECONDS = 120.0


def measure(folder: Path, count: int, uploads: int) -> str:
    """One line of the table, for a primary with `count` replicas."""
    group = ProcessGroup(folder)
    system = Pymirror(folder, group, (), "http://upstream.example/simple/")
    try:
        primary = system.start_primary()
        before = get(primary.address, "/+status").json()["rss_bytes"]
        replicas = [system.start_replica(primary, number) for number in range(count)]
        for replica in replicas:
            ready = partial(is_answering, replica.address, "/+ready")
            replica.process.wait_until(ready, _CATCH_UP_SECONDS)
        cpu, began = primary.process.cpu_seconds(), now()
        lags = _lags(system, primary, replicas, uploads)
        cpu, took = primary.process.cpu_seconds() - cpu, now() - began
        after = get(primary.address, "/+status").json()["rss_bytes"]
    finally:
        group.end_all()
    return (
        f"{count:3} replicas: lag p50 {1e3 * percentile(lags, 50):6.1f} ms, "
        f"p99 {1e3 * percentile(lags, 99):6.1f} ms (n={len(lags)}); primary "
        f"{before >> 20} -> {after >> 20} MiB, {1e3 * cpu / uploads:.1f} ms CPU an upload, "
        f"{uploads / took:.1f} uploads/s"
    )


def _lags(system: Pymirror, primary: Target, replicas: list[Target], uploads: int) -> list[float]:
    uploader = Uploader(primary.address, system.credentials(primary))
    lags: list[float] = []
    with ExitStack() as stack:
        writing = stack.enter_context(Connection(primary.address))
        reading = [stack.enter_context(Connection(r.address)) for r in replicas]
        for number in range(uploads):
            project = f"bench-lag-{number % _PROJECTS}"
            file = wheel(project, f"1.{number}")
            uploader.upload(writing, upload_body(file))
            done, first = now(), number % len(reading)
            for connection in reading[first:] + reading[:first]:
                seconds_until(connection, page_path(project), file.filename)
                lags.append(now() - done)
    return lags


@click.command()
@click.option("--counts", default="1,8", show_default=True, help="How many replicas, each.")
@click.option("--uploads", default=100, show_default=True, help="Uploads for each count.")
def main(counts: str, uploads: int) -> None:
    """Measure the lag of many replicas of one primary, and what they cost it."""
    for count in counts.split(","):
        with tempfile.TemporaryDirectory(prefix="pymirror-bench-") as folder:
            click.echo(measure(Path(folder), int(count), uploads))


if __name__ == "__main__":
    main()
