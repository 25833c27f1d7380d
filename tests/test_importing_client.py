"""The importer's requests: repeated when the connection breaks, given up with a reason."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from attrs import define, field

from cluster.importing.dump import Dump, DumpedFile, DumpedProject
from cluster.importing.targets import Outcome, RunningPrimary
from cluster.importing.upload import BrokenOff, PrimaryClient

DONE = {"outcome": "imported", "notes": [], "problems": []}


@define
class Scripted:
    """Gives the next of its answers to each request, and remembers the requests.

    An answer is (status, JSON), or None: break the connection off.
    """

    answers: list[tuple[int, Any] | None]
    requests: list[tuple[str, bytes]] = field(factory=list)

    def handle(self, request: BaseHTTPRequestHandler) -> None:
        """Answer one request."""
        body = request.rfile.read(int(request.headers.get("Content-Length") or 0))
        self.requests.append((request.path, body))
        answer = self.answers.pop(0)
        if answer is None:
            request.close_connection = True
            return
        data = json.dumps(answer[1]).encode()
        request.send_response(answer[0])
        request.send_header("Content-Length", str(len(data)))
        request.end_headers()
        request.wfile.write(data)


@contextmanager
def serving(*answers: tuple[int, Any] | None) -> Iterator[tuple[Scripted, PrimaryClient]]:
    """A server with these answers, and a client that does not sleep."""
    script = Scripted(list(answers))

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            script.handle(self)

        do_PUT = do_GET

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever)
    thread.start()
    url = f"http://127.0.0.1:{server.server_address[1]}/below"
    client = PrimaryClient(url, "root", "pässword", sleep=lambda seconds: None)
    try:
        yield script, client
    finally:
        client.close()
        server.shutdown()
        thread.join()
        server.server_close()


def test_broken_connections_are_made_anew() -> None:
    """A request that got no answer is sent again, below the URL's path."""
    with serving(None, (503, {"message": "later"}), (200, {"result": [DONE]})) as (script, client):
        assert client.put_things([{"what": "user"}]) == [DONE]
    assert script.requests == [("/below/+import/things", b'{"things":[{"what":"user"}]}')] * 3


def test_giving_up() -> None:
    """A primary that stays away ends the import with its last reason."""
    with (
        serving(*[(503, {"message": "shutting down"})] * 5) as (_, client),
        pytest.raises(BrokenOff, match="503: shutting down"),
    ):
        client.put_things([])
    with pytest.raises(BrokenOff, match="cannot be reached"):
        PrimaryClient("http://127.0.0.1:9", "root", "", sleep=lambda seconds: None).check()


@pytest.mark.parametrize("status", [401, 403])
def test_no_right_to_import(status: int) -> None:
    """A wrong password ends the import at once, instead of refusing each thing."""
    with (
        serving((status, {"message": "no"})) as (script, client),
        pytest.raises(BrokenOff, match=f"{status}: no"),
    ):
        client.put_things([])
    assert len(script.requests) == 1


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ({"role": "replica"}, "is a replica"),
        ({"result": {"role": "REPLICA"}}, "is a replica"),
        ("<html>", "is no pymirror primary"),
    ],
)
def test_what_is_no_primary(answer: object, reason: str) -> None:
    """A replica, or another server, is told from a primary before anything is sent."""
    with serving((200, answer)) as (_, client), pytest.raises(BrokenOff, match=reason):
        client.check()


@pytest.fixture
def dump(tmp_path: Path) -> Dump:
    """A folder with three files."""
    for name in ("a", "b", "c"):
        (tmp_path / name).write_text(name)
    return Dump(tmp_path)


def test_bytes_are_sent_when_wanted(dump: Dump) -> None:
    """Of a batch only the bytes that are missing are sent; refusals stay with their things."""
    things = [
        DumpedFile("releasefile", "joe/dev", "demo", "1", name, {"sha256": "ab" * 32})
        for name in ("a", "b", "c", "missing")
    ]
    wanted, there = {"outcome": "wanted"}, {**DONE, "outcome": "there"}
    with serving(
        (200, {"result": [wanted, there, wanted]}),
        (200, {"result": {"outcome": "imported"}}),
        (400, {"message": "not that sha256"}),
        (200, {"result": [DONE]}),
    ) as (script, client):
        outcomes = RunningPrimary(client, dump).take(things)
    assert outcomes == [
        Outcome(True), Outcome(False), Outcome(refused="not that sha256"),
        Outcome(refused="the file is missing in the dump"),
    ]  # fmt: skip
    assert [path.rpartition("/")[2][:5] for path, _ in script.requests] == [
        "thing", "bytes", "bytes", "thing",
    ]  # fmt: skip
    assert [body for path, body in script.requests if "bytes" in path] == [b"a", b"c"]


def test_a_batch_that_is_refused_whole(dump: Dump) -> None:
    """One thing that is too large for a request does not take its neighbours along."""
    things = [DumpedProject("joe/dev", name) for name in ("a", "giant", "c")]
    large = (413, {"message": "too large"})
    with serving(
        large, (200, {"result": [DONE]}), large, large, (200, {"result": [DONE]})
    ) as (script, client):  # fmt: skip
        outcomes = RunningPrimary(client, dump).take(things)
    assert outcomes == [Outcome(), Outcome(refused="too large"), Outcome()]
    assert [len(json.loads(body)["things"]) for _, body in script.requests] == [3, 1, 2, 1, 1]
