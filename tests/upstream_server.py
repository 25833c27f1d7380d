"""An upstream index to test against: ``python -m tests.upstream_server --root DIR --port 0``.

Prints ``LISTENING <port>`` and serves until SIGTERM. By URL prefix:

``/json/simple/``    JSON at API 1.4 with everything, HTML for those who prefer it
``/html/simple/``    HTML only: relative links, sha256, no sizes, no dates, no metadata files
``/nohash/``         HTML only, no ``/simple/``, no hashes, 403 for unknown projects
``/big/simple/``     ``--big N`` generated names; their pages do not exist
``/giant/simple/``   one project, ``giant``, with one file of ``--giant SIZE`` bytes

Pages have an ETag and answer 304. ``GET /control`` lists the requests so far; ``POST /control``
takes ``{"faults": {path: fault}}``, ``{"clear": true}`` (forget faults, release what is held)
or ``{"forget": true}`` (forget the requests). See `Fault`.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from attrs import define, evolve, field
from twisted.internet import defer, endpoints, reactor
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Request, Site

from tests import upstream_pages as pages
from tests.upstream_answers import Answer, Body, Fault, send

JSON_TYPE = "application/vnd.pypi.simple.v1+json"
GIANT_NAME = "giant-1.0-py3-none-any.whl"
_BLOCK = random.Random("giant").randbytes(1 << 20)


@define
class Upstream:
    """The content and the record of requests."""

    root: Path
    big: int = 0
    giant: Body = field(factory=lambda: Body(_BLOCK))
    faults: dict[str, Fault] = field(factory=dict)
    requests: list[dict[str, Any]] = field(factory=list)
    released: defer.Deferred[None] = field(factory=defer.Deferred)
    _giant_sha256: str = ""
    _big_page: bytes = b""

    def answer(self, path: str, base: str, accept: str) -> Answer | int:
        """The answer for an unquoted path, or a status code."""
        flavour, _, rest = path.removeprefix("/").partition("/")
        if flavour == "nohash":
            return self._nohash(rest)
        section, _, rest = rest.partition("/")
        if section == "files" and flavour in ("json", "html", "giant"):
            return self._file(flavour, rest)
        if section != "simple":
            return 404
        if flavour == "big":
            self._big_page = self._big_page or pages.generated_list_json(self.big)
            return 404 if rest else _page(JSON_TYPE, self._big_page)
        if flavour == "giant":
            return self._giant_page(base) if rest == "giant/" else 404
        return self._page(flavour, rest.removesuffix("/"), base, accept)

    def _page(self, flavour: str, project: str, base: str, accept: str) -> Answer | int:
        folder = self.root / flavour
        if project and not (folder / project).is_dir():
            return 404
        if flavour == "json" and prefers_json(accept):
            if not project:
                return _page(JSON_TYPE, pages.project_list_json(folder))
            page = pages.project_json(folder / project, f"{base}/json/files/{project}")
            return _page(JSON_TYPE, page)
        if not project:
            return _page("text/html", pages.project_list_html(pages.projects(folder)))
        return _page(
            "text/html",
            pages.project_html(
                folder / project, f"../../files/{project}", hashes=True, facts=flavour == "json"
            ),
        )

    def _nohash(self, rest: str) -> Answer | int:
        folder = self.root / "nohash"
        if not rest:
            return _page("text/html", pages.project_list_html(pages.projects(folder)))
        if rest.endswith("/"):
            if not (folder / rest).is_dir():
                return 403
            page = pages.project_html(folder / rest[:-1], "..", hashes=False, facts=False)
            return _page("text/html", page)
        found = list(folder.glob(f"*/{rest}"))
        return _file(found[0].read_bytes()) if found else 403

    def _file(self, flavour: str, rest: str) -> Answer | int:
        if flavour == "giant":
            return Answer("application/octet-stream", self.giant) if rest == GIANT_NAME else 404
        path = self.root / flavour / rest
        if flavour == "json" and path.suffix == ".metadata":
            wheel = path.with_suffix("")
            known = (
                {f.path: f.metadata for f in pages.files(wheel.parent)} if wheel.exists() else {}
            )
            metadata = known.get(wheel)
            return 404 if metadata is None else _file(metadata)
        return _file(path.read_bytes()) if path.is_file() else 404

    def _giant_page(self, base: str) -> Answer:
        self._giant_sha256 = self._giant_sha256 or self.giant.sha256()
        file = {
            "filename": GIANT_NAME,
            "url": f"{base}/giant/files/{GIANT_NAME}",
            "hashes": {"sha256": self._giant_sha256},
            "size": self.giant.size,
        }
        page = {"meta": {"api-version": "1.1"}, "name": "giant", "versions": ["1.0"]}
        return _page(JSON_TYPE, json.dumps({**page, "files": [file]}).encode())

    def take_fault(self, path: str) -> Fault:
        """The fault for a path, counted down."""
        fault = self.faults.get(path, Fault())
        if fault.times is not None:
            left = fault.times - 1
            self.faults[path] = evolve(fault, times=left)
            if left <= 0:
                del self.faults[path]
        return fault

    def control(self, order: dict[str, Any]) -> None:
        """Do what a ``POST /control`` says."""
        for path, fault in order.get("faults", {}).items():
            self.faults[path] = Fault(**fault)
        if order.get("clear"):
            self.faults.clear()
            released, self.released = self.released, defer.Deferred()
            released.callback(None)
        if order.get("forget"):
            self.requests.clear()


class UpstreamResource(Resource):
    """The HTTP face of an `Upstream`; put it in a `twisted.web.server.Site`."""

    isLeaf = True

    def __init__(self, upstream: Upstream) -> None:
        super().__init__()
        self._upstream = upstream

    def render(self, request: Request) -> int | bytes:
        """Serve the control endpoint and everything else."""
        path = unquote(request.path.decode())
        if path == "/control":
            return self._control(request)
        record: dict[str, Any] = {
            "method": request.method.decode(),
            "path": path,
            "conditional": request.getHeader("if-none-match") is not None,
            "range": request.getHeader("range"),
            "status": None,
        }
        self._upstream.requests.append(record)
        fault = self._upstream.take_fault(path)
        if fault.hold:
            waiting: defer.Deferred[None] = defer.Deferred()
            self._upstream.released.addCallback(_also(waiting))
            waiting.addCallback(lambda _: self._answer(request, path, Fault(), record))
        else:
            self._answer(request, path, fault, record)
        return NOT_DONE_YET

    def _control(self, request: Request) -> bytes:
        upstream = self._upstream
        if request.method == b"POST":
            assert request.content is not None
            upstream.control(json.loads(request.content.read()))
        request.setHeader("Content-Type", "application/json")
        return json.dumps({"requests": upstream.requests}).encode()

    def _answer(self, request: Request, path: str, fault: Fault, record: dict[str, Any]) -> None:
        if request._disconnected:
            return
        base = f"http://{request.getHeader('host')}"
        accept = request.getHeader("accept") or "*/*"
        answer = fault.status or self._upstream.answer(path, base, accept)
        if isinstance(answer, int):
            request.setResponseCode(answer)
            record["status"] = answer
            request.setHeader("Content-Length", "0")
            request.finish()
            return
        if fault.body is not None:
            answer = _page(answer.content_type, fault.body.encode())
        record["status"] = send(request, answer, fault, self._upstream.released)


def prefers_json(accept: str) -> bool:
    """Whether an Accept header ranks JSON above HTML (wildcards mean HTML)."""
    quality = {"json": 0.0, "html": 0.0}
    for media, q in _accepted(accept):
        kind = "json" if media.endswith("+json") else "html"
        quality[kind] = max(quality[kind], q)
    return quality["json"] > quality["html"]


def _accepted(accept: str) -> Iterator[tuple[str, float]]:
    for part in accept.split(","):
        media, *parameters = (piece.strip() for piece in part.split(";"))
        qs = [p.removeprefix("q=") for p in parameters if p.startswith("q=")]
        yield media, float(qs[0]) if qs else 1.0


def _page(content_type: str, data: bytes) -> Answer:
    return Answer(content_type, Body(data), is_page=True)


def _file(data: bytes) -> Answer:
    return Answer("application/octet-stream", Body(data))


def _also(waiting: defer.Deferred[None]) -> Any:
    def released(result: None) -> None:
        waiting.callback(result)

    return released


def main() -> None:
    """Serve until SIGTERM; print the port first."""
    parser = argparse.ArgumentParser(prog="tests.upstream_server")
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--big", type=int, default=0, metavar="N")
    parser.add_argument("--giant", type=int, default=1 << 20, metavar="SIZE")
    options = parser.parse_args()
    upstream = Upstream(options.root, options.big, Body(_BLOCK, options.giant))
    endpoint = endpoints.TCP4ServerEndpoint(reactor, options.port, interface="127.0.0.1")

    def ready(port: Any) -> None:
        sys.stdout.write(f"LISTENING {port.getHost().port}\n")
        sys.stdout.flush()

    endpoint.listen(Site(UpstreamResource(upstream))).addCallback(ready)
    reactor.run()  # type: ignore[misc]


if __name__ == "__main__":
    main()
