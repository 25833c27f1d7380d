"""A mirror of an upstream that wants a password: who sees that password, and who never does."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from attrs import define, field

from tests.builders import wheel
from tests.functional.helpers import ROOT_PASSWORD
from tests.processes import Cluster, Node, http

pytestmark = pytest.mark.functional

PASSWORD = "s3cret-of-upstream"
EXPECTED = "Basic " + base64.b64encode(f"eve:{PASSWORD}".encode()).decode()
HERE, ELSEWHERE = wheel("here", "1.0"), wheel("here", "2.0")


@define
class Server:
    """Answers paths with bytes; notes what Authorization came with each."""

    wants: str | None
    files: dict[str, bytes] = field(factory=dict)
    seen: list[tuple[str, str | None]] = field(factory=list)
    url: str = ""

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        """One request."""
        given = request.headers.get("Authorization")
        self.seen.append((request.path, given))
        body = self.files.get(request.path)
        status = 404 if body is None else 200
        if self.wants is not None and given != self.wants:
            status, body = 401, b""
        request.send_response(status)
        kind = "text/html" if request.path.endswith("/") else "application/octet-stream"
        request.send_header("Content-Type", kind)
        request.send_header("Content-Length", str(len(body or b"")))
        request.end_headers()
        request.wfile.write(body or b"")


@contextmanager
def serving(wants: str | None) -> Iterator[Server]:
    """A server on a free loopback port."""
    server = Server(wants)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            server.answer(self)

        def log_message(self, format: str, *args: object) -> None:
            """Nothing: `seen` has it."""

    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.url = f"http://127.0.0.1:{httpd.server_port}"
    thread = threading.Thread(target=httpd.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        httpd.shutdown()
        httpd.server_close()
        thread.join()


def publish(upstream: Server, other: Server) -> None:
    """One file on the upstream itself, one on another server, as content networks have them."""
    links = "".join(
        f'<a href="{base}/files/{one.filename}#sha256={one.sha256}">{one.filename}</a>'
        for base, one in ((upstream.url, HERE), (other.url, ELSEWHERE))
    )
    upstream.files["/simple/here/"] = f"<!DOCTYPE html><html><body>{links}</body></html>".encode()
    upstream.files[f"/files/{HERE.filename}"] = HERE.data
    other.files[f"/files/{ELSEWHERE.filename}"] = ELSEWHERE.data


def written(node: Node) -> bytes:
    """All that a node keeps on disk for everybody, and its log file."""
    paths = [path for path in node.state_dir.iterdir() if path.is_file()]
    return b"".join(path.read_bytes() for path in [*paths, node.log])


def test_password_of_an_upstream(tmp_path: Path) -> None:
    """The upstream gets its password from primary and replica, also while the primary is away;
    other servers, the log, the status and the index's configuration never hold it."""
    with serving(EXPECTED) as upstream, serving(None) as other, Cluster(tmp_path) as cluster:
        publish(upstream, other)
        primary = cluster.primary(None, root_password=ROOT_PASSWORD)
        replica = cluster.replica(primary)
        url = upstream.url.replace("http://", f"http://eve:{PASSWORD}@") + "/simple/"
        made = primary.put_index("root/priv", ROOT_PASSWORD, type="mirror", mirror_url=url)
        assert made.json()["result"]["mirror_url"] == f"{upstream.url}/simple/"
        replica.wait_serial(primary.status()["serial"])
        links = replica.file_urls("root/priv", "here")
        assert http("GET", links[ELSEWHERE.filename]).body == ELSEWHERE.data
        primary.kill()
        assert http("GET", links[HERE.filename]).body == HERE.data
        assert {given for _, given in upstream.seen} == {EXPECTED}
        assert [given for _, given in other.seen] == [None]
        for node in (primary, replica):
            assert PASSWORD.encode() not in written(node)
        shown = replica.get("/root/priv", accept="application/json").body
        assert PASSWORD not in shown.decode() + json.dumps(replica.status())


def test_files_straight_from_upstream(tmp_path: Path) -> None:
    """With mirror_use_external_urls both nodes send clients to the upstream for files that they
    do not have, without its password, and go on serving what they have."""
    with serving(EXPECTED) as upstream, serving(None) as other, Cluster(tmp_path) as cluster:
        publish(upstream, other)
        primary = cluster.primary(None, root_password=ROOT_PASSWORD)
        url = upstream.url.replace("http://", f"http://eve:{PASSWORD}@") + "/simple/"
        options = {"type": "mirror", "mirror_url": url}
        primary.put_index("root/here", ROOT_PASSWORD, **options)
        primary.put_index("root/there", ROOT_PASSWORD, **options, mirror_use_external_urls=True)
        replica = cluster.replica(primary)
        for node in (primary, replica):
            sent = http("GET", node.file_urls("root/there", "here")[ELSEWHERE.filename])
            assert (sent.status, sent.body) == (302, b"")
            assert sent.headers["location"] == f"{other.url}/files/{ELSEWHERE.filename}"
            assert PASSWORD not in str(sent.headers)
        for node in (primary, replica):
            assert http("GET", node.file_urls("root/here", "here")[HERE.filename]).status == 200
            kept = http("GET", node.file_urls("root/there", "here")[HERE.filename])
            assert (kept.status, kept.body) == (200, HERE.data)
