"""Questions of commands to nodes: who hears the node's token."""

from __future__ import annotations

import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import StreamRequestHandler, ThreadingTCPServer
from threading import Thread

import pytest
from attrs import define, field
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from cluster.auth.nodekeys import NodeKey
from cluster.cli.asking import NodeAnswers
from cluster.cli.furthest import Others
from cluster.cli.histories import Histories
from cluster.cli.index import RequestFailed, send
from cluster.errors import LogError
from cluster.promotion import Standing
from cluster.protocol import EPOCHS_PATH, NODE_HEADER
from tests.fakes import KEY, LOG


@define(eq=False)
class Server:
    """Notes the path and token of each request; redirects to `elsewhere` if that is set."""

    elsewhere: str = ""
    heard: list[tuple[str, str | None]] = field(factory=list)
    _http: ThreadingHTTPServer = field(init=False)

    def __attrs_post_init__(self) -> None:
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                server.heard.append((self.path, self.headers[NODE_HEADER]))
                body = json.dumps({"epochs": [], "epoch": 7, "serial": 3, "role": "primary"})
                self.send_response(302 if server.elsewhere else 200)
                self.send_header("Location", server.elsewhere + self.path)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body.encode())

            do_POST = do_GET

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        Thread(target=self._http.serve_forever, args=(0.01,), daemon=True).start()

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self._http.server_port}"

    def stop(self) -> None:
        """Listen no more."""
        self._http.shutdown()
        self._http.server_close()


@pytest.fixture
def servers() -> Iterator[tuple[Server, Server]]:
    """The first redirects to the second."""
    second = Server()
    first = Server(second.url)
    yield first, second
    first.stop()
    second.stop()


def asking() -> NodeAnswers:
    """In the name of a node with the cluster's secret."""
    return NodeAnswers(b"the cluster's secret", "a node", lambda: 1_700_000_000.0)


def test_redirects_are_not_followed(servers: tuple[Server, Server]) -> None:
    """They would carry token or password away; what comes back is no answer of the node."""
    first, second = servers
    assert asking().ask("GET", first.url + "/+state").status == 302
    assert asking().ask("POST", first.url + "/+node/fence", {}).status == 302
    assert asking().read(first.url + "/+log/tile/0/0") is None
    assert asking().digest(first.url + "/a-file") == (None, 0)
    with pytest.raises(LogError):
        asking().starts(first.url + EPOCHS_PATH)
    with pytest.raises(RequestFailed, match="302"):
        send("POST", first.url + "/+nodes/invite", {"hours": 1}, "root", "the password")
    assert len(first.heard) == 6
    assert second.heard == []


class NoHttp(StreamRequestHandler):
    """Reads a question, and says what is no answer to it."""

    def handle(self) -> None:
        self.rfile.readline()
        self.wfile.write(b"220 mail.example ESMTP\r\n")


def test_no_http_is_no_answer() -> None:
    """What listens there may be anything: it is as if it did not answer."""
    with ThreadingTCPServer(("127.0.0.1", 0), NoHttp) as server:
        Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        url = "http://{}:{}".format(*server.server_address)
        said = asking().status(url)
        assert (said.status, said.values) == (0, {})
        assert "220 mail" in said.message
        assert asking().digest(url + "/a-file") == (None, 0)
        with pytest.raises(LogError, match="220 mail"):
            asking().root_at(url, 3)
        server.shutdown()


def test_an_operators_question() -> None:
    """So it is for what is asked in the name of a user: one line says why."""
    with ThreadingTCPServer(("127.0.0.1", 0), NoHttp) as server:
        Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        for url in ("http://{}:{}".format(*server.server_address), "a.example", "http://[::1"):
            with pytest.raises(RequestFailed, match="cannot be reached") as failed:
                send("GET", url, None, "root", "")
            assert failed.value.status == 0
        server.shutdown()


@pytest.mark.parametrize(
    "url", ["", "a.example", "http://", "http://[::1", "http://a:b", "file:///", "http://u:p@a",
            "http://a b"],
)  # fmt: skip
def test_what_is_no_url(url: str) -> None:
    """It is not asked; least of all a file is read."""
    key = NodeKey(Ed25519PrivateKey.generate())
    for some in (asking(), NodeAnswers(None, "a node", lambda: 1_700_000_000.0, key)):
        assert some.status(url).status == 0
        said = some.ask("POST", url + "/+node/fence", {})
        assert (said.status, "URL" in said.message) == (0, True)
        assert some.digest(url + "/a-file") == (None, 0)
        with pytest.raises(LogError):
            some.read(url + "/a-file")


def test_a_place_is_asked_as_anybody(servers: tuple[Server, Server]) -> None:
    """A URL from a list of nodes hears no token before it has said that it has our log."""
    _, stranger = servers
    histories = Histories(asking(), Standing(LOG, KEY, 7, 3, b""), lambda _: b"")
    assert Others(asking(), histories, "me", [stranger.url], []).look() is None
    assert stranger.heard == [("/+status", None)]
    asking().starts(stranger.url + EPOCHS_PATH)
    assert stranger.heard[1][1] is not None
