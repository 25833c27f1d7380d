"""How the test upstream answers, rightly and wrongly: bodies in pieces, ranges, faults."""

from __future__ import annotations

import hashlib

from attrs import define, frozen
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IPullProducer
from twisted.web.server import Request
from zope.interface import implementer  # type: ignore[attr-defined]

_CHUNK = 1 << 16


@frozen
class Fault:
    """How the answer for one path goes wrong; several may be combined.

    `status` answers that code and nothing else. `body` replaces a page's text. `hold` waits
    for ``clear`` before it answers. `flip` inverts the first byte. `cut` breaks the connection
    after so many bytes, `stall` sends no more after so many until ``clear`` hangs up, `short`
    ends politely after so many as if that were all. `times` bounds how many requests meet the
    fault.
    """

    status: int | None = None
    body: str | None = None
    hold: bool = False
    flip: bool = False
    cut: int | None = None
    stall: int | None = None
    short: int | None = None
    times: int | None = None


@frozen
class Answer:
    """A whole answer: a type and a body that can be read in pieces."""

    content_type: str
    body: Body
    is_page: bool = False


class Body:
    """Bytes of a known length, read by offset."""

    def __init__(self, data: bytes, repeat_to: int | None = None) -> None:
        self._data = data
        self.size = len(data) if repeat_to is None else repeat_to

    def read(self, start: int, stop: int) -> bytes:
        """The bytes of [start, stop), at most one chunk."""
        stop = min(stop, self.size, start + _CHUNK)
        length = len(self._data)
        begin = start % length if length else 0
        return self._data[begin : min(begin + stop - start, length)]

    def sha256(self) -> str:
        """The digest of the whole body."""
        digest = hashlib.sha256()
        whole, rest = divmod(self.size, len(self._data) or 1)
        for _ in range(whole):
            digest.update(self._data)
        digest.update(self._data[:rest])
        return digest.hexdigest()


def send(request: Request, answer: Answer, fault: Fault, released: Deferred[None]) -> int:
    """Start an answer, wrong in the way `fault` says; returns its status.

    A stalled answer is broken off when `released` fires.
    """
    body = answer.body
    request.setHeader("Content-Type", answer.content_type)
    if answer.is_page:
        etag = f'"{body.sha256()[:32]}"'
        request.setHeader("ETag", etag)
        request.setHeader("Cache-Control", "max-age=600, public")
        if request.getHeader("if-none-match") == etag:
            request.setResponseCode(304)
            request.finish()
            return 304
    start, stop = 0, body.size
    wanted = request.getHeader("range")
    if wanted and not answer.is_page:
        start, stop = _range(wanted, body.size)
        request.setResponseCode(206)
        request.setHeader("Content-Range", f"bytes {start}-{stop - 1}/{body.size}")
    if fault.short is not None:
        stop = start + fault.short
    request.setHeader("Content-Length", str(stop - start))
    if request.method == b"HEAD":
        request.finish()
        return request.code
    request.registerProducer(_Sender(request, body, start, stop, fault, released), False)
    return request.code


@implementer(IPullProducer)
@define(eq=False)
class _Sender:
    """Writes a body piece by piece, and goes wrong where the fault says so."""

    request: Request
    body: Body
    at: int
    stop: int
    fault: Fault
    released: Deferred[None]
    sent: int = 0

    def resumeProducing(self) -> None:
        limit = self.fault.cut if self.fault.cut is not None else self.fault.stall
        if limit is not None and self.sent >= limit:
            self.request.unregisterProducer()
            if self.fault.cut is not None:
                self._hang_up()
            else:
                self.released.addCallback(lambda _: self._hang_up())
            return
        stop = self.stop if limit is None else min(self.stop, self.at + limit - self.sent)
        data = self.body.read(self.at, stop)
        if self.fault.flip and self.sent == 0 and data:
            data = bytes([data[0] ^ 0xFF]) + data[1:]
        self.at += len(data)
        self.sent += len(data)
        self.request.write(data)
        if self.at >= self.stop:
            self.request.unregisterProducer()
            self.request.finish()

    def stopProducing(self) -> None:
        self.stop = self.at

    def _hang_up(self) -> None:
        if self.request.channel is not None:
            self.request.channel.loseConnection()


def _range(header: str, size: int) -> tuple[int, int]:
    first, _, last = header.removeprefix("bytes=").partition("-")
    if not first:
        return max(0, size - int(last)), size
    return int(first), min(int(last) + 1, size) if last else size
