"""Domain errors: raised anywhere, mapped to an HTTP answer once, in `cluster.web.replies`.

Each class carries the status code of RFC 9110 that fits it, because every caller of
pymirror is an HTTP client; nothing below `cluster.web` looks at that number.
"""

from __future__ import annotations

from typing import ClassVar


class PymirrorError(Exception):
    """An error with a message for people: what is wrong and, where known, what to do."""

    status: ClassVar[int] = 500


class InvalidRequest(PymirrorError):
    """The request says something that cannot be: bad names, bad values, bad files."""

    status = 400


class AuthenticationRequired(PymirrorError):
    """Nobody, or nobody we know, asks for something that needs a known user (RFC 7617)."""

    status = 401


class Forbidden(PymirrorError):
    """A known user asks for something that user may not do."""

    status = 403


class NotFound(PymirrorError):
    """The thing asked for does not exist here."""

    status = 404


class NotAcceptable(PymirrorError):
    """No representation that the client accepts exists (RFC 9110 §15.5.7)."""

    status = 406


class Conflict(PymirrorError):
    """The change contradicts what is recorded already."""

    status = 409


class Gone(PymirrorError):
    """What this API once had and does not offer."""

    status = 410


class TooLarge(PymirrorError):
    """A body exceeds its bound."""

    status = 413


class TooManyRequests(PymirrorError):
    """Slow down: too many wrong passwords came from there (RFC 6585 §4).

    `retry_after_seconds` is when asking again makes sense.
    """

    status = 429

    def __init__(self, message: str, retry_after_seconds: int) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds


class Unavailable(PymirrorError):
    """A part we depend on (primary, disk) cannot serve now; trying again later is right."""

    status = 503
    retry_after_seconds: ClassVar[int] = 5


class LoopDetected(PymirrorError):
    """A request has come back to a node that it passed before (RFC 5842 §7.2)."""

    status = 508


class UpstreamError(PymirrorError):
    """An upstream gave no usable answer, and nothing known can be served in its place."""

    status = 502


class DigestMismatch(UpstreamError):
    """A source delivered bytes that are not the file that was asked for."""


class LogError(PymirrorError):
    """Bytes that claim to be a change log are not ours, not whole, or not understood."""


class UnknownFormat(LogError):
    """An entry's kind or format is newer than this program: upgrade it, never skip the entry."""


class DiskRefused(PymirrorError):
    """The disk takes nothing more: it is full, fails, or is read-only. Nothing was changed."""

    status = 503
    retry_after_seconds = 30


class NotDurable(PymirrorError):
    """The disk refused to keep what was committed, and may have lost it already."""

    status = 503
