"""Where files come from: the seam `Source`, and other HTTP servers."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping
from typing import Protocol, cast
from urllib.parse import urlsplit

from attrs import define, field, frozen
from attrs.validators import ge, matches_re, optional
from twisted.internet.defer import Deferred
from twisted.internet.protocol import Protocol as WireProtocol
from twisted.python.failure import Failure
from twisted.web.client import ResponseDone
from twisted.web.http import OK, PARTIAL_CONTENT, PotentialDataLoss
from twisted.web.http_headers import Headers

from cluster.agent import Requester, Response
from cluster.errors import InvalidRequest, UpstreamError
from cluster.files.sink import HASH_NAMES, Pausable
from cluster.model import SHA256

_CONTENT_RANGE = re.compile(r"bytes ([0-9]{1,18})-([0-9]{1,18})/([0-9]{1,18}|\*)", re.ASCII)


class SourceError(UpstreamError):
    """One source could not deliver; `http_status` is what it answered, where it answered."""

    def __init__(self, message: str, http_status: int | None = None) -> None:
        super().__init__(message)
        self.http_status = http_status

    @property
    def absent(self) -> bool:
        """Whether the source works and says that it does not have the file."""
        return self.http_status in (404, 410)


class CutOff(SourceError):
    """What came of a body is good, as far as anybody knows, but it ended too early."""


@frozen
class Wanted:
    """A file to fetch and all that is known of it beforehand.

    `size` is in bytes; `hashes` are lower-case hex by hashlib's names; `url` is where an upstream
    keeps the file. Either `sha256` or `url` must be there: a file is fetched once per `key`.
    `start` is how many bytes are here already: a source may leave them out. `if_range` is the
    entity tag that the file must still have for that; None if its digest will tell.
    """

    filename: str
    sha256: str | None = field(default=None, validator=optional(matches_re(SHA256)))
    size: int | None = field(default=None, validator=optional(ge(0)))
    hashes: Mapping[str, str] = field(factory=dict)
    url: str | None = None
    start: int = 0
    if_range: str | None = None

    def __attrs_post_init__(self) -> None:
        if not self.key:
            raise InvalidRequest(f"{self.filename!r} has neither a sha256 nor a URL")

    @property
    def key(self) -> str:
        """What makes two wishes the same file."""
        return self.sha256 or self.url or ""

    @property
    def checkable(self) -> Mapping[str, str]:
        """The digests to verify: sha256 alone where it is known, else all that we can compute."""
        if self.sha256 is not None:
            return {"sha256": self.sha256}
        return {name: digest for name, digest in self.hashes.items() if name in HASH_NAMES}

    @property
    def verifiable(self) -> bool:
        """Whether a cut body would be noticed by what is known of the file."""
        return bool(self.checkable) or self.size is not None


class BodySink(Protocol):
    """Who takes a body, in the reactor's thread."""

    def write(self, data: bytes) -> None:
        """Take bytes. An error raised here means: stop delivering, and fail with it."""

    def attach(self, producer: Pausable | None) -> None:
        """Name who can be paused when bytes come too fast."""


class SourceBody(Protocol):
    """One answer of a source.

    `length` is the whole file's in bytes, None if the source does not say. `start` is the offset
    of the first byte that comes: 0, or `Wanted.start`. `etag` is a strong entity tag in its
    quotes. `passes_on` is whether siblings may have the bytes while they arrive; `kept` whether
    they may go into the store: not where nobody who knows can tell whether they are right.
    """

    @property
    def length(self) -> int | None: ...  # noqa: D102
    @property
    def start(self) -> int: ...  # noqa: D102
    @property
    def etag(self) -> str | None: ...  # noqa: D102
    @property
    def passes_on(self) -> bool: ...  # noqa: D102
    @property
    def kept(self) -> bool: ...  # noqa: D102

    async def deliver(self, sink: BodySink) -> None:
        """Write the body into `sink`; returns at its end. Raises SourceError if it is cut."""

    def abort(self) -> None:
        """Give the body up, before or while it is delivered: `deliver` fails."""


class Source(Protocol):
    """A place that may have a file: the primary, a sibling, an upstream."""

    @property
    def name(self) -> str: ...  # noqa: D102

    async def open(self, wanted: Wanted) -> SourceBody | None:
        """Ask for the file; None if this source cannot have it. Raises SourceError."""


class Connection(Pausable, Protocol):
    """What a body protocol's transport can do."""

    def loseConnection(self) -> None:
        """Close the connection."""


@frozen
class HttpSource:
    """Files by GET from the URL that `url_of` names (None: not from here).

    `name` is for status; `headers` are sent with each request. Redirects are the agent's affair.
    """

    name: str
    _agent: Requester
    _url_of: Callable[[Wanted], str | None]
    _headers: Mapping[str, str] = field(factory=dict)
    _kept: bool = True

    async def open(self, wanted: Wanted) -> SourceBody | None:
        """Send the request; returns when the response's headers are there."""
        url = self._url_of(wanted)
        if url is None:
            return None
        if "@" in urlsplit(url).netloc:
            # The agent would refuse it, with the password in its message.
            raise SourceError(f"{_host(url)}: credentials belong in a header, not in the URL")
        # An encoded body would have another length and another digest than the file.
        headers = Headers({"Accept-Encoding": ["identity"]})
        if wanted.start:
            headers.setRawHeaders("Range", [f"bytes={wanted.start}-"])
            if wanted.if_range is not None:
                headers.setRawHeaders("If-Range", [wanted.if_range])
        for name, value in self._headers.items():
            headers.setRawHeaders(name, [value])
        try:
            response = await self._agent.request(b"GET", url.encode("ascii"), headers)
        except Exception as e:
            raise SourceError(f"{_host(url)}: {_reason(e)}") from e
        what = f"{_host(url)}: {wanted.filename}"
        body = HttpBody(response, what, wanted.verifiable, kept=self._kept)
        if response.code == PARTIAL_CONTENT and wanted.start:
            if body.start != wanted.start:
                body.abort()
                raise SourceError(f"{_host(url)} sends another part than was asked for")
        elif response.code != OK:
            body.abort()
            raise SourceError(f"{_host(url)} answers {response.code}", response.code)
        encodings = response.headers.getRawHeaders("Content-Encoding") or ["identity"]
        if encodings != ["identity"]:
            body.abort()
            raise SourceError(f"{_host(url)} sends an encoding that was not asked for")
        return body


@frozen
class AuthorizedSource:
    """Files from where their own URL says, with the headers that the server there wants.

    `headers_for` gives them for a URL; it may have to look them up.
    """

    name: str
    _agent: Requester
    _headers_for: Callable[[str], Awaitable[Mapping[str, str]]]
    _kept: bool = True

    async def open(self, wanted: Wanted) -> SourceBody | None:
        """Send the request; returns when the response's headers are there."""
        if wanted.url is None:
            return None
        headers = await self._headers_for(wanted.url)
        source = HttpSource(self.name, self._agent, lambda w: w.url, headers, self._kept)
        return await source.open(wanted)


@define(eq=False)
class HttpBody:
    """The body of a response, streamed; never held.

    Where the end of the body cannot be told from a cut (no length), it is taken as the end only
    if `verifiable`: whoever asked compares size or digest.
    """

    _response: Response
    _what: str
    _verifiable: bool
    passes_on: bool = True
    kept: bool = True
    _receiver: _Receiver | None = None

    @property
    def length(self) -> int | None:
        """The whole file's size: Content-Length, or what Content-Range says of it."""
        part = self._part()
        if part is not None:
            return None if part[3] == "*" else int(part[3])
        length = self._response.length
        return length if isinstance(length, int) else None

    @property
    def start(self) -> int:
        """Where a part begins; 0 for a whole file."""
        part = self._part()
        return 0 if part is None else int(part[1])

    @property
    def etag(self) -> str | None:
        """The strong entity tag, in its quotes."""
        values = self._response.headers.getRawHeaders("ETag") or [""]
        return values[0] if values[0].startswith('"') else None

    def _part(self) -> re.Match[str] | None:
        if self._response.code != PARTIAL_CONTENT:
            return None
        values = self._response.headers.getRawHeaders("Content-Range") or [""]
        return _CONTENT_RANGE.fullmatch(values[0].strip())

    async def deliver(self, sink: BodySink) -> None:
        """Write the body into `sink`, which may pause the connection."""
        self._receiver = _Receiver(sink, self._what, self._verifiable)
        self._response.deliverBody(self._receiver)
        await self._receiver.done

    def abort(self) -> None:
        """Close the connection: the rest of the body may be gigabytes."""
        if self._receiver is None:
            self._receiver = _Receiver(_Nowhere(), self._what, self._verifiable)
            self._receiver.done.addErrback(lambda _: None)
            self._response.deliverBody(self._receiver)
        self._receiver.stop(SourceError(f"{self._what}: given up"))


class _Nowhere:
    """Takes the body of an answer that nobody wants until its connection is closed."""

    def write(self, data: bytes) -> None:
        """Drop the bytes."""

    def attach(self, producer: Pausable | None) -> None:
        """Never pause."""


class _Receiver(WireProtocol):
    """Connects a response's body to a `BodySink`; `done` fires once, at its end."""

    def __init__(self, sink: BodySink, what: str, verifiable: bool) -> None:
        self._sink = sink
        self._what = what
        self._good_ends = (ResponseDone, PotentialDataLoss) if verifiable else (ResponseDone,)
        self._connection: Connection | None = None
        self._ended = False
        self.done: Deferred[None] = Deferred(lambda _: self.stop(SourceError("given up")))

    def connectionMade(self) -> None:
        self._connection = cast(Connection, self.transport)
        self._sink.attach(self._connection)

    def dataReceived(self, data: bytes) -> None:
        if self._ended:
            return
        try:
            self._sink.write(data)
        except Exception as e:
            self.stop(e)

    def connectionLost(self, reason: Failure | None = None) -> None:
        ended = reason.value if reason is not None else ResponseDone()
        if isinstance(ended, self._good_ends):
            self._end(None)
        else:
            self._end(CutOff(f"{self._what}: cut off, {_reason(ended)}"))

    def stop(self, error: Exception) -> None:
        """Fail with `error` and close the connection."""
        self._end(error)
        if self._connection is not None:
            self._connection.loseConnection()

    def _end(self, error: Exception | None) -> None:
        if self._ended:
            return
        self._ended = True
        self._sink.attach(None)
        if error is None:
            self.done.callback(None)
        else:
            self.done.errback(error)


def _host(url: str) -> str:
    # Not the whole URL: it may hold credentials or a signature.
    return urlsplit(url).hostname or "?"


def _reason(error: BaseException | None) -> str:
    causes = getattr(error, "reasons", None)
    if causes:
        return _reason(causes[0].value)
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
