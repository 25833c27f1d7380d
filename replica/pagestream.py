"""What the primary answers a poll with: pages of the log, one or as many as come for a while."""

from __future__ import annotations

import zlib
from collections import deque
from enum import Enum
from io import BytesIO
from typing import Any, Final

import zstandard
from attrs import define, frozen
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from twisted.web.client import ResponseDone
from twisted.web.http import PotentialDataLoss

from cluster.clock import Clock, Delayed
from cluster.errors import LogError
from cluster.protocol import FRAME, PAGE_ENCODINGS, TELL, TailPage, decode_tail
from cluster.upstream.client import explain
from replica.following import Unreachable

QUIET_SECONDS: Final = 0.15
LONGEST_UNTOLD_SECONDS: Final = 1.0
_PAUSE_FROM_BYTES: Final = 1 << 20


@frozen
class EncodedPage:
    """A page as it was sent; `primary_serial` is the head that came with it."""

    body: bytes
    encoding: str | None
    primary_serial: int = 0


class Sign(Enum):
    """What comes instead of a page."""

    END = "end"
    """The answer is whole: ask again."""
    TELL = "tell"
    """The primary waits to hear how far we are."""
    QUIET = "quiet"
    """Nothing came for as long as the reader wanted to wait."""


Frame = EncodedPage | Sign


class PageStream(Protocol):
    """Splits an answer's body into frames, and holds those that nobody has taken yet."""

    def __init__(self, url: str, page_limit: int, clock: Clock) -> None:
        """Frames may have `page_limit` bytes."""
        self._url, self._page_limit, self._clock = url, page_limit, clock
        self._buffer = bytearray()
        self._frames: deque[Frame] = deque()
        self._held_bytes = 0
        self._paused = False
        self._failure: Exception | None = None
        self._waiter: Deferred[None] | None = None
        self._silence_seconds = 0.0
        self._deadline: Delayed | None = None
        self.is_untouched = True
        """Whether nothing was taken from it."""

    @classmethod
    def of_page(cls, url: str, page: EncodedPage, clock: Clock) -> PageStream:
        """An answer that is one page, and whole."""
        stream = cls(url, len(page.body), clock)
        stream._frames += (page, Sign.END)
        return stream

    def watch(self, silence_seconds: float) -> None:
        """Take the answer for broken off when it says nothing for so long."""
        self._silence_seconds = silence_seconds
        late = Unreachable(f"{self._url}: no whole answer in time")
        self._deadline = self._clock.callLater(silence_seconds, self._fail_with, late)

    async def next(self, quiet_seconds: float | None = None) -> Frame:
        """The next frame, waited for; QUIET if none comes for so long.

        Raises Unreachable when the answer breaks off, LogError when it is no stream.
        """
        if not self._frames and self._failure is None:
            waiter = self._waiter = Deferred()
            timer = None
            if quiet_seconds is not None:
                timer = self._clock.callLater(quiet_seconds, self._wake)
            try:
                await waiter
            finally:
                self._waiter = None
                if timer is not None and timer.active():
                    timer.cancel()
        if self._frames:
            return self._taken()
        if self._failure is not None:
            raise self._failure
        return Sign.QUIET

    def close(self) -> None:
        """Nobody takes more of it."""
        self._fail_with(Unreachable(f"{self._url}: the answer was given up"))

    def _taken(self) -> Frame:
        frame = self._frames[0]
        if frame is Sign.END:
            return frame
        self._frames.popleft()
        self.is_untouched = False
        if isinstance(frame, EncodedPage):
            self._held_bytes -= len(frame.body)
            if self._paused and self._held_bytes < _PAUSE_FROM_BYTES:
                self._paused = False
                self._restart_watch()
                self._transport.resumeProducing()
        return frame

    def _restart_watch(self) -> None:
        self._end_watch()
        if self._silence_seconds and not self._paused and Sign.END not in self._frames:
            self.watch(self._silence_seconds)

    def _end_watch(self) -> None:
        if self._deadline is not None and self._deadline.active():
            self._deadline.cancel()

    @property
    def _transport(self) -> Any:
        return self.transport

    def dataReceived(self, data: bytes) -> None:
        """Bytes of the body."""
        if self._failure is not None:
            return
        self._buffer += data
        try:
            while self._split():
                pass
        except LogError as error:
            self._fail_with(error)
        if self._failure is None:
            self._paused = self._held_bytes >= _PAUSE_FROM_BYTES
            if self._paused:
                self._transport.pauseProducing()
            self._restart_watch()
        if self._frames:
            self._wake()

    def _split(self) -> bool:
        if len(self._buffer) < FRAME.size:
            return False
        kind, head, length = FRAME.unpack_from(self._buffer)
        if kind > len(PAGE_ENCODINGS) or length > (0 if kind == TELL else self._page_limit):
            raise LogError(f"{self._url} sends a frame of kind {kind} with {length} bytes")
        end = FRAME.size + length
        if len(self._buffer) < end:
            return False
        if kind == TELL:
            self._frames.append(Sign.TELL)
        else:
            body = bytes(self._buffer[FRAME.size : end])
            self._frames.append(EncodedPage(body, PAGE_ENCODINGS[kind - 1], head))
            self._held_bytes += length
        del self._buffer[:end]
        return True

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """The body is whole, or was cut."""
        is_whole = reason.check(ResponseDone, PotentialDataLoss)
        if is_whole and not self._buffer:
            self._frames.append(Sign.END)
            self._settle()
        else:
            error = reason.value or ConnectionDone()
            why = "the answer ends in the middle of a page" if is_whole else explain(error)
            self._fail_with(Unreachable(f"{self._url}: {why}"))

    def _fail_with(self, error: Exception) -> None:
        if self._failure is not None or Sign.END in self._frames:
            return
        self._failure = error
        self._settle()
        if self.transport is not None:
            self._transport.loseConnection()

    def _settle(self) -> None:
        self._end_watch()
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None:
            waiter, self._waiter = self._waiter, None
            waiter.callback(None)


@define
class Untold:
    """Since when there is something that neither the disk nor the primary has been told of."""

    _since: float | None = None

    def came(self, now: float) -> None:
        """Something has come; `now` is in seconds."""
        self._since = now if self._since is None else self._since

    def told(self) -> None:
        """They know all."""
        self._since = None

    def quiet_seconds(self, now: float) -> float | None:
        """How long to wait for more before they are told; None for as long as it takes."""
        if self._since is None:
            return None
        return min(QUIET_SECONDS, max(0.0, self._since + LONGEST_UNTOLD_SECONDS - now))


def unpack(page: EncodedPage, limit_bytes: int) -> TailPage:
    """Decompress and split a page; raises LogError for garbage and for anything too large."""
    body = page.body
    try:
        if page.encoding == "zstd":
            reader = zstandard.ZstdDecompressor().stream_reader(BytesIO(body))
            body = reader.read(limit_bytes + 1)
        elif page.encoding == "gzip":
            body = zlib.decompressobj(wbits=31).decompress(body, limit_bytes + 1)
        elif page.encoding is not None:
            raise LogError(f"a page of the log in encoding {page.encoding!r}")
    except (zstandard.ZstdError, zlib.error) as error:
        raise LogError(f"a page of the log does not decompress: {error}") from None
    if len(body) > limit_bytes:
        raise LogError(f"a page of the log has more than {limit_bytes} bytes")
    return decode_tail(body)
