"""Fetches pages of an upstream's simple API: conditional, bounded, with a deadline."""

from __future__ import annotations

import re
import zlib
from collections.abc import Mapping
from typing import Protocol

from attrs import define, evolve, field, frozen
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone
from twisted.internet.protocol import Protocol as TwistedProtocol
from twisted.python.failure import Failure
from twisted.web.client import ResponseDone
from twisted.web.http import PotentialDataLoss
from twisted.web.http_headers import Headers

from cluster.agent import Requester, Response
from cluster.clock import Clock, bounded
from cluster.errors import UpstreamError
from cluster.model import MirrorIndex
from cluster.names import NormalizedName
from cluster.state.freshness import Freshness
from cluster.upstream.credentials import UpstreamCredentials
from cluster.upstream.urls import project_url
from cluster.version import __version__

USER_AGENT = f"pymirror/{__version__}"
MAX_PAGE_BYTES = 64 << 20
MAX_LIST_BYTES = 512 << 20
PAGE_SECONDS = 30.0
_CONDITIONS = frozenset({"If-None-Match", "If-Modified-Since"})
_LAST_BYTES = 64
_ENDS = re.compile(rb"(?:\}|</html\s*>|</body\s*>)(?:\s|<!--[^>]*-->)*\Z", re.IGNORECASE)
LIST_SECONDS = 300.0
ACCEPT = (
    "application/vnd.pypi.simple.v1+json, application/vnd.pypi.simple.v1+html;q=0.2, "
    "text/html;q=0.1"
)  # fmt: skip


@frozen
class Page:
    """A page that an upstream sent, decoded.

    `url` is where it was asked for, `base` where it came from after redirects: what relative
    links are relative to.
    """

    url: str
    base: str
    body: bytes
    content_type: str
    etag: str | None
    last_modified: str | None
    serial: int | None


@frozen
class NotModified:
    """The upstream says that what we have is current (304)."""


@frozen
class Absent:
    """The upstream says that there is no such project (404, 410)."""


class Sink(Protocol):
    """Takes decoded bytes as they come."""

    def write(self, data: bytes) -> object:
        """Take bytes; raising ends the transfer."""


@define
class UpstreamClient:
    """Asks upstreams for pages over an agent that follows redirects and verifies TLS."""

    _agent: Requester
    _clock: Clock
    _credentials: UpstreamCredentials

    async def project(
        self, index: MirrorIndex, project: NormalizedName, known: Freshness | None
    ) -> Page | NotModified | Absent:
        """Fetch a project's page, conditionally if `known` is about the same URL.

        Raises UpstreamError for any answer but 200, 304, 404 and 410: only those say something
        about the project (standards C6).
        """
        if index.mirror_url is None:
            return Absent()
        url = project_url(index.mirror_url, project)
        body = _Collected()
        answer = await self._fetch(index, url, known, body, MAX_PAGE_BYTES, PAGE_SECONDS)
        if not isinstance(answer, Page):
            return answer
        return evolve(answer, body=bytes(body.data))

    async def names(
        self, index: MirrorIndex, known: Freshness | None, sink: Sink
    ) -> Page | NotModified | Absent:
        """Stream the upstream's project list into a sink; the page returned has no body."""
        if index.mirror_url is None:
            return Absent()
        url = project_url(index.mirror_url, "")
        return await self._fetch(index, url, known, sink, MAX_LIST_BYTES, LIST_SECONDS)

    async def _fetch(
        self,
        index: MirrorIndex,
        url: str,
        known: Freshness | None,
        sink: Sink,
        limit_bytes: int,
        seconds: float,
    ) -> Page | NotModified | Absent:
        headers = {"User-Agent": USER_AGENT, "Accept": ACCEPT, "Accept-Encoding": "gzip"}
        headers |= await self._credentials.headers(index, url)
        confirmed = known if known is not None and known.url == url else None
        if confirmed is not None and confirmed.etag:
            headers["If-None-Match"] = confirmed.etag
        elif confirmed is not None and confirmed.last_modified:
            headers["If-Modified-Since"] = confirmed.last_modified
        work = Deferred.fromCoroutine(self._answer(url, headers, sink, limit_bytes))
        try:
            answer = await bounded(work, seconds, self._clock)
        except UpstreamError:
            raise
        except Exception as error:
            raise UpstreamError(f"{url}: {explain(error)}") from error
        if isinstance(answer, NotModified) and not headers.keys() & _CONDITIONS:
            raise UpstreamError(f"{url} answered 304 to an unconditional request")
        return answer

    async def _answer(
        self, url: str, headers: Mapping[str, str], sink: Sink, limit_bytes: int
    ) -> Page | NotModified | Absent:
        raw = Headers({name: [value] for name, value in headers.items()})
        response = await self._agent.request(b"GET", url.encode("ascii"), raw)
        if response.code != 200:
            drop(response)
            if response.code == 304:
                return NotModified()
            if response.code in (404, 410):
                return Absent()
            raise UpstreamError(f"{url} answered {response.code}")
        decoder = _decoder(first(response, "Content-Encoding"), url)
        await _read(response, _Reader(sink, decoder, limit_bytes))
        serial = first(response, "X-PyPI-Last-Serial") or ""
        return Page(
            url, _final_url(response, url), b"", first(response, "Content-Type") or "",
            first(response, "ETag"), first(response, "Last-Modified"),
            int(serial) if serial.isdigit() and len(serial) < 19 else None,
        )  # fmt: skip


def _final_url(response: Response, asked: str) -> str:
    request = getattr(response, "request", None)
    final = getattr(request, "absoluteURI", None)
    return final.decode("ascii") if final else asked


def first(response: Response, header: str) -> str | None:
    """A response header's first value."""
    values = response.headers.getRawHeaders(header)
    return values[0] if values else None


async def read_body(response: Response, limit_bytes: int) -> bytes:
    """A response's whole body; raises UpstreamError when it is larger than the limit."""
    body = _Collected()
    await _read(response, _Reader(body, None, limit_bytes))
    return bytes(body.data)


async def _read(response: Response, reader: _Reader) -> None:
    response.deliverBody(reader)
    await reader.done


def drop(response: Response) -> None:
    """Close the connection of a response whose body nobody wants."""
    response.deliverBody(_Dropped())


def explain(error: BaseException) -> str:
    """A short reason for people: Twisted wraps the cause of a broken request in lists."""
    reasons = getattr(error, "reasons", None)
    if reasons:
        return explain(reasons[0].value)
    text = str(error).strip().splitlines()
    name = type(error).__name__
    if name in ("CancelledError", "ResponseNeverReceived"):
        return "no whole answer in time"
    if name == "VerificationError":
        return f"its TLS certificate is for another name: {text[0]}"
    if "certificate verify failed" in str(error):
        return "its TLS certificate has expired, or is of an authority that is not trusted here"
    return f"{name}: {text[0]}" if text else name


@define
class _Collected:
    data: bytearray = field(factory=bytearray)

    def write(self, data: bytes) -> None:
        self.data += data


class _Gunzip:
    """Decompresses a page; what ends before its end is an error, not a shorter page."""

    def __init__(self, url: str) -> None:
        self._url, self._unzip = url, zlib.decompressobj(wbits=31)

    def decode(self, data: bytes, most: int) -> bytes:
        decoded = self._unzip.decompress(data, most)
        if self._unzip.unconsumed_tail:
            raise UpstreamError(f"{self._url}: the compressed page is too large")
        return decoded

    def end(self) -> None:
        if not self._unzip.eof or self._unzip.unused_data:
            raise UpstreamError(f"{self._url}: the compressed page is not whole")


def _decoder(encoding: str | None, url: str) -> _Gunzip | None:
    if encoding in (None, "", "identity"):
        return None
    if encoding not in ("gzip", "x-gzip"):
        raise UpstreamError(f"{url} answered in an encoding we did not ask for: {encoding}")
    return _Gunzip(url)


class _Reader(TwistedProtocol):
    """Decodes a response's body into a sink; breaks off when it exceeds its bound."""

    def __init__(self, sink: Sink, gunzip: _Gunzip | None, limit_bytes: int) -> None:
        self._sink, self._gunzip, self._left = sink, gunzip, limit_bytes
        self._last = b""
        # Who gives up closes the connection: a body that trickles would hold it for ever.
        self.done: Deferred[None] = Deferred(lambda _: self._abort())

    def dataReceived(self, data: bytes) -> None:
        if self.done.called:
            return
        try:
            decoded = self._gunzip.decode(data, self._left + 1) if self._gunzip else data
            self._left -= len(decoded)
            if self._left < 0:
                raise UpstreamError("the page is too large")
            self._sink.write(decoded)
            self._last = (self._last + decoded[-_LAST_BYTES:])[-_LAST_BYTES:]
        except Exception:
            self.done.errback(Failure())
            self._abort()

    def connectionLost(self, reason: Failure = Failure(ConnectionDone())) -> None:  # noqa: B008
        if self.done.called:
            return
        if not reason.check(ResponseDone, PotentialDataLoss):
            self.done.errback(reason)
            return
        try:
            if self._gunzip is not None:
                self._gunzip.end()
            elif reason.check(PotentialDataLoss) and not _ENDS.search(self._last):
                # The end of the connection is the end of the page (RFC 9112 §6.3), or a cut,
                # which would look as if upstream had removed what is missing.
                raise UpstreamError("the page has neither a length nor an end")
        except UpstreamError:
            self.done.errback(Failure())
        else:
            self.done.callback(None)

    def _abort(self) -> None:
        _break_off(self.transport)


class _Dropped(TwistedProtocol):
    def connectionMade(self) -> None:
        _break_off(self.transport)


def _break_off(transport: object) -> None:
    for name in ("abortConnection", "loseConnection"):
        close = getattr(transport, name, None)
        if close is not None:
            close()
            return
