"""A static index with the big project: the upstream of the subjects' mirror indexes."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from bench.client import Address
from bench.data import BIG_PROJECT, big_filenames

_TYPE = "application/vnd.pypi.simple.v1+json"


@contextmanager
def upstream(files: int) -> Iterator[str]:
    """Serve the index while the block runs; gives the URL of its project list.

    Files are listed and never delivered: what is measured is their page.
    """
    server = ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler)
    address = Address(server.server_port)
    server.RequestHandlerClass = _handler(_pages(address, files))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"{address.url}/simple/"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _pages(address: Address, files: int) -> dict[str, bytes]:
    """The bodies by path."""
    meta = {"api-version": "1.1"}
    listing = {"meta": meta, "projects": [{"name": BIG_PROJECT}]}
    rows = [_file(address, filename) for _, filename in big_filenames(files)]
    versions = list(dict.fromkeys(version for version, _ in big_filenames(files)))
    page = {"meta": meta, "name": BIG_PROJECT, "versions": versions, "files": rows}
    return {
        "/simple/": json.dumps(listing).encode(),
        f"/simple/{BIG_PROJECT}/": json.dumps(page).encode(),
    }


def _file(address: Address, filename: str) -> dict[str, object]:
    return {
        "filename": filename,
        "url": f"{address.url}/files/{filename}",
        "hashes": {"sha256": hashlib.sha256(filename.encode()).hexdigest()},
        "size": 1_234_567,
        "upload-time": "2024-05-06T07:08:09.123456Z",
        "requires-python": ">=3.8",
        "yanked": False,
    }


def _handler(pages: dict[str, bytes]) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            body = pages.get(self.path)
            self.send_response(404 if body is None else 200)
            self.send_header("Content-Type", _TYPE)
            self.send_header("Content-Length", str(len(body or b"")))
            self.end_headers()
            self.wfile.write(body or b"")

        def log_message(self, *args: object) -> None:
            """Log nothing: stderr belongs to the progress bar."""

    return Handler
