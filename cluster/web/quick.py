"""Answers with prepared bytes: what a cached page costs is looking it up and one write."""

from __future__ import annotations

from collections.abc import Callable
from email.utils import formatdate

from attrs import define

from cluster.clock import Clock
from cluster.protocol import SERIAL_HEADER
from cluster.simple.cache import RenderedPage
from cluster.simple.negotiate import accepts_gzip
from cluster.web.headers import NodeHeaders
from cluster.web.request import NodeRequest
from cluster.web.simple import chosen_body, matches, page_headers


@define
class QuickPages:
    """Writes a page's status line and headers from one prepared block.

    Only what changes between requests is made anew: the serial, and once a second the date.
    """

    _clock: Clock
    _now: Callable[[], float]
    _headers: NodeHeaders
    _second: int = -1
    _date: bytes = b""

    def send(self, request: NodeRequest, page: RenderedPage, serial: int) -> bool:
        """Answer with the page, or 304; False for what needs the long way (HTTP/1.0, close)."""
        if request.clientproto != b"HTTP/1.1" or not request.channel.persistent:
            return False
        packed = accepts_gzip(request.header("Accept-Encoding"))
        body = chosen_body(page, packed)
        unchanged = matches(request, body.etag)
        head = page.heads.get((packed, unchanged))
        if head is None:
            head = page.heads[packed, unchanged] = self._head(page, packed, unchanged)
        ends = b"%d\r\nX-DEVPI-SERIAL: %d\r\nDate: %s\r\n\r\n"
        parts = [head, ends % (serial, serial, self._date_now())]
        if not unchanged and request.method == b"GET":
            parts.append(body.data)
        counts = request.channel.site.counts
        if unchanged:
            counts.pages_unchanged += 1
        else:
            counts.pages += 1
        request.send_prepared(parts)
        return True

    def _date_now(self) -> bytes:
        second = int(self._clock.seconds())
        if second != self._second:
            self._second, self._date = second, formatdate(self._now(), usegmt=True).encode()
        return self._date

    def _head(self, page: RenderedPage, packed: bool, unchanged: bool) -> bytes:
        body = chosen_body(page, packed)
        headers = {"Server": "pymirror", **page_headers(page, packed)}
        if not unchanged:
            headers["Content-Type"] = page.format.content_type
            headers["Content-Length"] = str(len(body.data))
        lines = ["HTTP/1.1 304 Not Modified" if unchanged else "HTTP/1.1 200 OK"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        fixed = [name + b": " + value for name, value in self._headers.fixed().items()]
        return b"\r\n".join(
            ["\r\n".join(lines).encode("ascii"), *fixed, SERIAL_HEADER.encode() + b": "]
        )
