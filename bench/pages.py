"""Project pages: requests per second, latency, CPU of the server, for what clients ask."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from attrs import frozen

from bench.client import Answer, BenchError, Connection, NotOffered
from bench.data import BIG_PROJECT
from bench.load import raw_get, run_load
from bench.settings import Settings
from bench.subjects import JSON, Target, page_path

_HTML = {"Accept": "text/html"}
# What pip 23 and later send.
_PIP = {
    "Accept": "application/vnd.pypi.simple.v1+json, "
    "application/vnd.pypi.simple.v1+html; q=0.1, text/html; q=0.01",
    "Accept-Encoding": "gzip, deflate",
    "Cache-Control": "max-age=0",
}


@frozen
class PageCase:
    """One kind of request: which pages, which headers, and whether the client has them."""

    name: str
    headers: Mapping[str, str]
    big: bool = False
    conditional: bool = False

    def projects(self, target: Target) -> tuple[str, ...]:
        """The projects in rotation."""
        return (BIG_PROJECT,) if self.big else target.projects


CASES = (
    PageCase("small html", _HTML),
    PageCase("small json", JSON),
    PageCase("small pip", _PIP),
    PageCase("small pip 304", _PIP, conditional=True),
    PageCase("big html", _HTML, big=True),
    PageCase("big json", JSON, big=True),
    PageCase("big pip", _PIP, big=True),
    PageCase("big pip 304", _PIP, big=True, conditional=True),
)


def prepare(target: Target, case: PageCase) -> list[bytes]:
    """The requests of a case for one server, each asked once so that its caches are warm.

    Raises BenchError for an answer that is not what the case is about.
    """
    with Connection(target.address) as connection:
        return [
            raw_get(target.address, path, headers)
            for path, headers in _requests(target, case, connection)
        ]


def measure(target: Target, requests: list[bytes], settings: Settings) -> Mapping[str, float]:
    """Load one server; returns rate (1/s), p50 and p99 (s), cpu (s/request), errors, bytes."""
    before = target.process.cpu_seconds()
    result = run_load(target.address, requests, settings.connections, settings.load_seconds)
    cpu = target.process.cpu_seconds() - before
    if not result.requests:
        raise BenchError(f"no request completed in {settings.load_seconds:g} s")
    return {
        "rate": result.rate,
        "p50": result.p50,
        "p99": result.p99,
        "cpu": cpu / result.requests,
        "errors": float(result.errors),
        "answer_bytes": result.bytes / result.requests,
    }


def _requests(
    target: Target, case: PageCase, connection: Connection
) -> Iterator[tuple[str, Mapping[str, str]]]:
    for project in case.projects(target):
        path = page_path(project)
        answer = connection.request("GET", path, case.headers)
        _check(path, answer, 200)
        if not case.conditional:
            yield path, case.headers
            continue
        if "etag" not in answer.headers:
            raise NotOffered("its pages have no ETag")
        headers = {**case.headers, "If-None-Match": answer.headers["etag"]}
        _check(path, connection.request("GET", path, headers), 304)
        yield path, headers


def _check(path: str, answer: Answer, status: int) -> None:
    if answer.status != status:
        raise BenchError(f"GET {path} answered {answer.status}, not {status}")
