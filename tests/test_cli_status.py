"""pymirror status: what counts as trouble, what is drawn, and the exit status."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import StringIO
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from cluster.cli.main import main
from cluster.cli.status import Seen, draw
from cluster.health import problems

THEN, NOW = "2026-01-01T00:00:00Z", "2026-01-01T00:00:09Z"


def upstream(**more: Any) -> dict[str, Any]:
    return {"last_success": NOW, "last_error": None, "last_error_at": None, "requests": 3,
            "failures": 0, "failing": {}, **more}  # fmt: skip


def replica(**more: Any) -> dict[str, Any]:
    return {
        "uuid": "0123456789", "address": "192.0.2.1", "outside_url": "http://r.example",
        "position": 7, "lag_entries": 0, "lag_seconds": 0.0, "last_contact": NOW,
        "last_contact_seconds": 3.0, "lost_seconds": None, "state": "in-sync", "state_since": THEN,
        "healthy": True, "hint": None, "error": None, "region": "eu", "files_in_sync": True,
        "cache_bytes": 12_345_678, "load": 0.25, "version": "1", **more,
    }  # fmt: skip


def primary(**more: Any) -> dict[str, Any]:
    return {
        "role": "primary", "uuid": "abcdef", "version": "1", "outside_url": "http://p.example",
        "ready": True, "log_identity": {"log": "12345678-x", "key": "k"}, "epoch": 1, "serial": 7,
        "root": "rootrootroot", "warnings": [], "replicas": [replica()], "triggers": [],
        "upstreams": {"root/pypi": upstream()}, "files": {"bytes": 1_000}, **more,
    }  # fmt: skip


def following(**more: Any) -> dict[str, Any]:
    follower = {"state": "in-sync", "since": THEN, "lag_entries": 0, "lag_seconds": 0.0,
                "failures": 0, "last_error": "old", "hint": None, **more}  # fmt: skip
    return {**primary(), "role": "replica", "replicas": None, "outside_url": None,
            "follower": follower, "in_sync": {"files": False, "files_missing": 2}}  # fmt: skip


def test_bootstrap() -> None:
    """A replica that starts from a snapshot is shown with how far it is."""
    loading = {"serial": 900_000, "phase": "loading", "chunks": 7, "chunks_total": 20,
               "rows": 123_456, "rows_total": 1_000_000}  # fmt: skip
    seen = Seen({**following(state="bootstrapping"), "bootstrap": loading}, None, [])
    console = Console(file=StringIO(), width=200)
    console.print(draw("http://r.example", seen))
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert "snapshot 900000: chunks" in shown
    assert "7 of 20" in shown
    assert "loading: rows" in shown
    assert "123,456 of 1,000,000" in shown


def test_healthy() -> None:
    """Nodes without trouble have no problems; errors that are over, and warnings, are none."""
    over = upstream(last_error="was down", last_error_at=THEN)
    disk = {"free_bytes": 8, "floor_bytes": 8}
    assert problems(primary(upstreams={"a/b": over}, warnings=["no password"], disk=disk)) == []
    assert problems(following()) == []
    assert problems(following(state="catching-up", lag_seconds=3.0)) == []


@pytest.mark.parametrize(
    ("status", "where", "what", "since"),
    [
        (primary(upstreams={"a/b": upstream(last_error="down", last_error_at=NOW,
                                            last_success=THEN)}), "upstream of a/b", "down", NOW),
        (primary(upstreams={"a/b": upstream(last_error="down", last_error_at=NOW,
                                            last_success=None)}), "upstream of a/b", "down", NOW),
        (primary(replicas=[replica(healthy=False, state="diverged", error="not my root")]),
         "http://r.example", "diverged: not my root", THEN),
        (primary(replicas=[replica(healthy=False, last_contact_seconds=99.0)]),
         "http://r.example", "does not poll any more", NOW),
        (primary(replicas=[replica(healthy=False, lost_seconds=5.0, outside_url=None)]),
         "replica 01234567 at 192.0.2.1", "does not poll any more", NOW),
        (primary(triggers=[{"kind": "webhook", "index": "a/b", "failing_since": THEN,
                            "pending": 4, "target": "http://t", "last_error": "500"}]),
         "webhook of a/b", "500", THEN),
        (primary(fenced={"epoch": 2}), "http://p.example",
         "replaced by another primary: it takes no changes", None),
        (primary(fenced={"epoch": 2, "state": "split", "since": THEN, "error": "two owners"}),
         "http://p.example", "two owners", THEN),
        (primary(snapshot_error="full"), "http://p.example",
         "the last snapshot could not be made: full", None),
        (primary(disk={"free_bytes": 7, "floor_bytes": 8}), "http://p.example",
         "uploads are refused: 7 bytes are free on its disk", None),
        (following(state="primary-unreachable", failures=2), "replica abcdef",
         "primary-unreachable: old", THEN),
        (following(state="catching-up", lag_seconds=99.0), "replica abcdef", "catching-up", THEN),
    ],
)  # fmt: skip
def test_trouble(status: dict[str, Any], where: str, what: str, since: str | None) -> None:
    """Each trouble says where it is, what, and since when."""
    (found,) = problems(status)
    assert (found.where, found.what, found.since) == (where, what, since)


def drawn(seen: Seen) -> str:
    console = Console(width=220, file=StringIO(), record=True)
    console.print(draw("http://asked.example", seen))
    return console.export_text()


def test_drawing() -> None:
    """The table has each node with its numbers; problems stand below with what to do."""
    sick = replica(uuid="9", outside_url="http://s.example", healthy=False, state="diverged",
                   hint="run verify", lag_entries=3, lag_seconds=1.5)  # fmt: skip
    status = primary(replicas=[replica(), sick], warnings=["root has no password"])
    text = drawn(Seen(status, None, problems(status)))
    for word in ("http://p.example", "http://r.example", "12.3 MB", "3 entries, 1.5 s", "eu",
                 "run verify", "root has no password", "root/pypi", "✗"):  # fmt: skip
        assert word in text, word
    assert "✓ healthy" in drawn(Seen(primary(), None, []))
    text = drawn(Seen(following(), None, []))
    assert "2 missing" in text


_values: st.SearchStrategy[Any] = (
    st.none() | st.booleans() | st.integers() | st.text() | st.just([]) | st.just({})
)


@given(st.dictionaries(st.sampled_from([*primary(), *following()]), _values))
def test_documents_of_other_versions(changed: dict[str, Any]) -> None:
    """A document that lacks fields, or has other ones, has problems or none, but breaks nothing."""
    kept = {key: value for key, value in {**following(), **changed}.items() if value is not None}
    assert isinstance(problems(kept), list)


class Site:
    """A server whose /+status is what a test sets."""

    def __init__(self) -> None:
        site = self
        self.document: Any = None
        self.at: dict[str, Any] = {}
        """What other paths than the root's answer."""

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                body = json.dumps(site.at.get(self.path, site.document)).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *arguments: object) -> None:
                """Say nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"


@pytest.fixture
def site() -> Iterator[Site]:
    made = Site()
    thread = threading.Thread(target=made.server.serve_forever, args=(0.01,))
    thread.start()
    yield made
    made.server.shutdown()
    made.server.server_close()
    thread.join()


@pytest.fixture
def status() -> Callable[..., tuple[int, str]]:
    def run(*arguments: str) -> tuple[int, str]:
        result = CliRunner().invoke(main, ["status", *arguments])
        return result.exit_code, result.output

    return run


def test_exit_status(site: Site, status: Callable[..., tuple[int, str]]) -> None:
    """0 for health, 1 for trouble, 2 for no answer or that of something else."""
    site.document = primary()
    assert status(site.url)[0] == 0
    site.document = primary(replicas=[replica(healthy=False, lost_seconds=9)])
    code, text = status(site.url, "--json")
    assert (code, json.loads(text)["healthy"]) == (1, False)
    assert json.loads(text)["problems"][0]["where"] == "http://r.example"
    others: list[Any] = [[], {"x": 1}, None]
    for document in others:
        site.document = document
        assert status(site.url)[0] == 2
    assert status("http://127.0.0.1:1")[0] == 2
    assert status("not a URL")[0] == 2


def test_replica_asks_its_primary(site: Site, status: Callable[..., tuple[int, str]]) -> None:
    """A replica is shown in the map of its primary; without it, alone, and that is trouble."""
    site.document = {**following(), "primary": {"url": "http://127.0.0.1:1"}}
    code, text = status(site.url, "--json")
    assert code == 1
    assert json.loads(text)["problems"][-1]["where"] == "http://127.0.0.1:1"
    site.document = {**primary(), "primary": {"url": site.url}}
    code, text = status(site.url, "--json")
    assert (code, json.loads(text)["primary"]["role"]) == (0, "primary")


def test_replica_of_a_replica(site: Site, status: Callable[..., tuple[int, str]]) -> None:
    """The map is found through replicas in between, and says who follows whom; a ring ends."""
    behind = replica(uuid="2", outside_url="http://end.example", address=None, via=["0123456789"])
    site.document = {**following(), "primary": {"url": f"{site.url}/middle"}}
    site.at["/middle/+status"] = {**following(), "primary": {"url": f"{site.url}/primary"}}
    site.at["/primary/+status"] = primary(replicas=[replica(), behind])
    code, text = status(site.url, "--json")
    assert (code, json.loads(text)["primary"]["role"]) == (0, "primary")
    text = drawn(Seen(primary(replicas=[replica(), behind]), None, []))
    assert "replica of" in text
    site.at["/middle/+status"] = {**following(), "primary": {"url": site.url}}
    code, text = status(site.url, "--json")
    assert (code, json.loads(text)["primary"]) == (0, None)
