"""Parts of a file: Range, If-Range, If-None-Match of RFC 9110 (pure).

A request whose range we do not understand is answered whole, as the RFC wants; one that is
understood and lies outside the file is refused.
"""

from __future__ import annotations

import re
from datetime import UTC
from email.utils import formatdate, parsedate_to_datetime

from attrs import field, frozen
from attrs.validators import ge

_SINGLE = re.compile(r"bytes[ \t]*=[ \t]*([0-9]*)[ \t]*-[ \t]*([0-9]*)[ \t]*", re.ASCII | re.I)
# Longer numbers are no file positions, and int() of thousands of digits costs time.
_MAX_DIGITS = 18
_ENTITY_TAG = re.compile(r'(W/)?"([\x21\x23-\x7e\x80-\xff]*)"')


class RangeNotSatisfiable(Exception):
    """A well-formed range has no byte of the file in it: 416 (RFC 9110 §15.5.17)."""


@frozen
class Span:
    """The bytes from `start` up to, not including, `stop`."""

    start: int = field(validator=ge(0))
    stop: int

    def __attrs_post_init__(self) -> None:
        if self.stop < self.start:
            raise ValueError(f"span ends at {self.stop}, before its start {self.start}")

    @property
    def length(self) -> int:
        """How many bytes these are."""
        return self.stop - self.start


def parse_range(header: str | None, size: int) -> Span | None:
    """The part of a file of `size` bytes that a Range header asks for; None means the whole.

    Several ranges, other units and malformed headers mean the whole (RFC 9110 §14.2). Raises
    RangeNotSatisfiable.
    """
    match = _SINGLE.fullmatch(header.strip()) if header else None
    if match is None:
        return None
    first, last = match.groups()
    if not (first or last) or max(len(first), len(last)) > _MAX_DIGITS:
        return None
    if not first:
        return _suffix(int(last), size)
    start = int(first)
    if last and int(last) < start:
        return None
    if start >= size:
        raise RangeNotSatisfiable(f"the file has {size} bytes, the range starts at {start}")
    return Span(start, min(int(last) + 1, size) if last else size)


def _suffix(length: int, size: int) -> Span:
    if length == 0 or size == 0:
        raise RangeNotSatisfiable(f"no byte of {size} is in the last {length}")
    return Span(max(0, size - length), size)


def content_range(span: Span | None, size: int) -> str:
    """The Content-Range of a 206, or of a 416 where there is no span (RFC 9110 §14.4)."""
    if span is None:
        return f"bytes */{size}"
    return f"bytes {span.start}-{span.stop - 1}/{size}"


def if_range_matches(header: str | None, etag: str | None, last_modified: int | None) -> bool:
    """Whether Range may be honoured, by If-Range (RFC 9110 §13.1.5); no header means yes.

    `etag` is our strong entity tag without quotes; `last_modified` is in seconds since the
    epoch. Both compare exactly: weak tags and other dates never match.
    """
    if header is None:
        return True
    header = header.strip()
    if tag := _ENTITY_TAG.fullmatch(header):
        return etag is not None and not tag[1] and tag[2] == etag
    return last_modified is not None and parse_date(header) == last_modified


def if_none_match(header: str | None, etag: str | None) -> bool:
    """Whether the client holds this file already, by If-None-Match (§13.1.2, weak comparison)."""
    if header is None or etag is None:
        return False
    if header.strip() == "*":
        return True
    return any(tag == etag for _, tag in _ENTITY_TAG.findall(header))


def not_modified_since(header: str | None, last_modified: int | None) -> bool:
    """Whether the client's copy is young enough, by If-Modified-Since (§13.1.3)."""
    if header is None or last_modified is None:
        return False
    since = parse_date(header)
    return since is not None and last_modified <= since


def http_date(seconds: int) -> str:
    """Seconds since the epoch as an HTTP date (§5.6.7)."""
    return formatdate(seconds, usegmt=True)


def parse_date(header: str) -> int | None:
    """An HTTP date as seconds since the epoch, or None where it is none."""
    try:
        date = parsedate_to_datetime(header.strip())
        return int((date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp())
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
