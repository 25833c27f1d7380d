"""A replica whose way to its primary leads through a front: nginx, or one that collects answers."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from primary.streams import CONFIRM_SECONDS
from tests import nginx
from tests.builders import wheel
from tests.functional.helpers import upload
from tests.processes import Cluster, Node, free_port

pytestmark = pytest.mark.functional


@contextmanager
def _nginx(primary: Node, folder: Path) -> Iterator[str]:
    port = free_port()
    text = (
        f"server {{ listen 127.0.0.1:{port}; location / {{ proxy_pass {primary.url};"
        " proxy_http_version 1.1; proxy_set_header Host $http_host; } }\n"
    )
    front = nginx.start(text, port, folder)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        front.terminate()


@contextmanager
def _collecting(primary: Node) -> Iterator[str]:
    """Passes an answer on once it is whole, as virus scanners do."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            asked = self.command, self.path, self.rfile.read(length), dict(self.headers)
            with closing(HTTPConnection("127.0.0.1", primary.port, timeout=60)) as behind:
                behind.request(*asked)
                with behind.getresponse() as answer:
                    body = answer.read()
            self.send_response(answer.status)
            for name, value in answer.getheaders():
                if name.lower() not in ("content-length", "transfer-encoding"):
                    self.send_header(name, value)
            if answer.status != 204:
                self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_POST = do_GET

        def log_message(self, format: str, *args: object) -> None:
            pass

    class Front(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, request: object, client_address: object) -> None:
            """A node that ends hangs up."""

    front = Front(("127.0.0.1", 0), Handler)
    threading.Thread(target=front.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{front.server_address[1]}"
    finally:
        front.shutdown()
        front.server_close()


def _news(nodes: Cluster, primary: Node, url: str, first_seconds: float) -> None:
    replica = nodes.node("behind", "pymirror-replica", ["--primary-url", url]).start()
    primary.put_index("root/team", type="stage")
    replica.wait_serial(primary.status()["serial"], first_seconds)
    for number in range(3):
        built = wheel("demo", f"1.{number}")
        assert upload(primary, "root/team", built, "").status == 200
        replica.wait_serial(primary.status()["serial"], 2)
    assert replica.status()["follower"]["failures"] == 0


@pytest.mark.skipif(nginx.NGINX is None, reason=nginx.WHY_NOT)
def test_news_through_nginx(nodes: Cluster, tmp_path: Path) -> None:
    """News come at once."""
    primary = nodes.primary()
    with _nginx(primary, tmp_path) as url:
        _news(nodes, primary, url, 2)


def test_news_through_a_front_that_collects(nodes: Cluster) -> None:
    """The first are held back until the primary notices; the next come at once."""
    primary = nodes.primary()
    with _collecting(primary) as url:
        _news(nodes, primary, url, CONFIRM_SECONDS + 5)
