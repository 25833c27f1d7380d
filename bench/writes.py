"""Writing: uploads per second, and the time from an upload's answer to a replica's page."""

from __future__ import annotations

import time
from collections.abc import Mapping

from attrs import frozen

from bench.client import BenchError, Connection, now, upload_body
from bench.data import project_files, project_names, wheel
from bench.fill import Uploader
from bench.results import percentile
from bench.settings import Settings
from bench.subjects import JSON, System, Target, page_path

_FILES_PER_PROJECT = 20
_LAG_PROJECTS = 10
_LAG_TIMEOUT_SECONDS = 20.0
_POLL_SECONDS = 0.001


@frozen
class UploadCase:
    """A number of parallel uploaders."""

    name: str
    connections: int


UPLOAD_CASES = (UploadCase("1 connection", 1), UploadCase("8 connections", 8))


def measure_uploads(
    system: System, primary: Target, case: UploadCase, settings: Settings, round_: int
) -> Mapping[str, float]:
    """Upload new files to new projects of 20 files; returns `rate` in uploads per second."""
    count = settings.slow_uploads if system.is_slow else settings.uploads
    projects = max(1, count // _FILES_PER_PROJECT)
    names = project_names(projects, f"bench-up-{round_}-{case.connections}")
    files = list(project_files(names, _FILES_PER_PROJECT // 2))[:count]
    uploader = Uploader(primary.address, system.credentials(primary))
    before = primary.process.cpu_seconds()
    done, seconds = uploader.upload_all(files, case.connections)
    cpu = primary.process.cpu_seconds() - before
    return {"rate": done / seconds, "cpu": cpu / done, "uploads": float(done)}


def measure_lag(
    system: System, primary: Target, replica: Target, settings: Settings, round_: int
) -> Mapping[str, float]:
    """Upload one by one; returns p50, p99 and max (s) until the replica's page has the file.

    The clock starts when the primary has answered and the page is asked for only then, so a lag
    is at least one request long, and asking does not disturb the upload.
    """
    count = settings.slow_lag_uploads if system.is_slow else settings.lag_uploads
    uploader = Uploader(primary.address, system.credentials(primary))
    lags: list[float] = []
    with Connection(primary.address) as writing, Connection(replica.address) as reading:
        for number in range(count):
            project = f"bench-lag-{number % _LAG_PROJECTS}"
            file = wheel(project, f"{round_}.{number}")
            uploader.upload(writing, upload_body(file))
            lags.append(seconds_until(reading, page_path(project), file.filename))
    return {
        "p50": percentile(lags, 50),
        "p99": percentile(lags, 99),
        "max": max(lags),
        "uploads": float(count),
    }


def seconds_until(reading: Connection, path: str, filename: str) -> float:
    """How long it takes until a page has a file; raises BenchError."""
    start = now()
    wanted = f'"{filename}"'.encode()
    while (elapsed := now() - start) < _LAG_TIMEOUT_SECONDS:
        answer = reading.request("GET", path, JSON)
        if answer.status == 200 and wanted in answer.body:
            return now() - start
        # Without this breath, asking would take the replica the time it needs to follow.
        time.sleep(_POLL_SECONDS)
        if answer.status not in (200, 404):
            raise BenchError(f"GET {path} at the replica answered {answer.status}")
    raise BenchError(f"{filename} not on the replica's page after {elapsed:.0f} s")
