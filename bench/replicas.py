"""``python -m bench.replicas``: one primary with many replicas: lag on each, and what they cost.

For each count: uploads to the primary at a steady rate; when one is answered, a replica is asked
for its page "at that serial or later" (``X-Pymirror-Min``), as a client asks that wants to read
what it wrote. The answer's time is a lag. In the first half one replica is asked, by chance: that
is the lag of any of them. In the second half all are asked at once, which also makes all of them
render that page on the same processors. Asking in a loop instead would take the processors from
those who are to follow.
"""

from __future__ import annotations

import random
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import click

from bench.client import BenchError, Connection, get, is_answering, now, upload_body
from bench.data import wheel
from bench.fill import Uploader
from bench.processes import ProcessGroup
from bench.pymirror import Pymirror
from bench.results import percentile
from bench.subjects import JSON, Target, page_path

_PROJECTS = 10
_CATCH_UP_SECONDS = 300.0


def measure(folder: Path, count: int, uploads: int, per_second: float) -> str:
    """One line of the table, for a primary with `count` replicas."""
    group = ProcessGroup(folder)
    system = Pymirror(folder, group, (), "http://upstream.example/simple/")
    try:
        primary = system.start_primary()
        before = _rss(primary)
        replicas = [system.start_replica(primary, number) for number in range(count)]
        for replica in replicas:
            ready = partial(is_answering, replica.address, "/+ready")
            replica.process.wait_until(ready, _CATCH_UP_SECONDS)
        cpu = _cpu([primary]), _cpu(replicas)
        of_one, of_all = _lags(system, primary, replicas, uploads, per_second)
        spent = _cpu([primary]) - cpu[0], _cpu(replicas) - cpu[1]
        after = _rss(primary)
    finally:
        group.end_all()
    return (
        f"{count:3} replicas: lag on one {_figures(of_one)}; on all, asked at once "
        f"{_figures(of_all)}; primary "
        f"{before >> 20} -> {after >> 20} MiB ({(after - before) / count / 1024:.0f} KiB each), "
        f"{1e3 * spent[0] / uploads:.1f} ms CPU an upload; "
        f"each replica {1e3 * spent[1] / uploads / count:.1f} ms"
    )


def _figures(lags: list[float]) -> str:
    middle, worst = 1e3 * percentile(lags, 50), 1e3 * percentile(lags, 99)
    return f"p50 {middle:.1f} ms, p99 {worst:.1f} ms (n={len(lags)})"


def _rss(target: Target) -> int:
    found: int = get(target.address, "/+status").json()["rss_bytes"]
    return found


def _cpu(targets: Sequence[Target]) -> float:
    return sum(target.process.cpu_seconds() for target in targets)


def _lags(
    system: Pymirror, primary: Target, replicas: list[Target], uploads: int, per_second: float
) -> tuple[list[float], list[float]]:
    uploader = Uploader(primary.address, system.credentials(primary))
    files = [wheel(f"bench-lag-{n % _PROJECTS}", f"1.{n}") for n in range(uploads)]
    of_one: list[float] = []
    of_all: list[float] = []
    chance = random.Random(1)
    with ExitStack() as stack:
        writing = stack.enter_context(Connection(primary.address))
        reading = [stack.enter_context(Connection(r.address)) for r in replicas]
        pool = stack.enter_context(ThreadPoolExecutor(len(reading)))
        start = now()
        for number, file in enumerate(files):
            time.sleep(max(0.0, start + number / per_second - now()))
            answer = uploader.upload(writing, upload_body(file))
            done, serial = now(), answer.headers["x-pymirror-serial"]
            path = page_path(file.project)
            shown = partial(_shown_at, path=path, serial=serial, filename=file.filename)
            if number < uploads // 2:
                of_one.append(shown(chance.choice(reading)) - done)
            else:
                of_all += [at - done for at in pool.map(shown, reading)]
    return of_one, of_all


def _shown_at(connection: Connection, path: str, serial: str, filename: str) -> float:
    answer = connection.request("GET", path, {**JSON, "X-Pymirror-Min": serial})
    at = now()
    if answer.status != 200 or f'"{filename}"'.encode() not in answer.body:
        raise BenchError(f"GET {path} at serial {serial} answered {answer.status} without the file")
    return at


@click.command()
@click.option("--counts", default="1,8", show_default=True, help="How many replicas, each.")
@click.option("--uploads", default=400, show_default=True, help="Uploads for each count.")
@click.option("--per-second", default=10.0, show_default=True, help="How many uploads a second.")
def main(counts: str, uploads: int, per_second: float) -> None:
    """Measure the lag of many replicas of one primary, and what they cost it."""
    for count in counts.split(","):
        with tempfile.TemporaryDirectory(prefix="pymirror-bench-") as folder:
            click.echo(measure(Path(folder), int(count), uploads, per_second))


if __name__ == "__main__":
    main()
