"""Which representation a client wants (pure): standards N1-N6, RFC 9110 §12.5, PEP 691."""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import Enum
from functools import lru_cache

from cluster.errors import NotAcceptable

_CACHED_HEADERS = 256
_LONGEST_CACHED = 1024
_Q = re.compile(r"(?:0?\.\d+|[01](?:\.\d*)?)", re.ASCII)
_SIMPLE = "application/vnd.pypi.simple."


class Format(Enum):
    """The three media types of the simple API."""

    HTML_TEXT = "text/html"
    HTML_V1 = "application/vnd.pypi.simple.v1+html"
    JSON_V1 = "application/vnd.pypi.simple.v1+json"

    @property
    def content_type(self) -> str:
        """The Content-Type header's value; the v1 types are UTF-8 by definition."""
        return "text/html; charset=utf-8" if self is Format.HTML_TEXT else self.value

    @property
    def is_json(self) -> bool:
        """Whether the page is JSON rather than HTML."""
        return self is Format.JSON_V1


_BY_NAME = {format.value: format for format in Format} | {
    f"{_SIMPLE}latest+html": Format.HTML_V1,
    f"{_SIMPLE}latest+json": Format.JSON_V1,
}
# At equal q: the richest of what is named, but plain HTML for who takes anything (N2).
_NAMED_ORDER = (Format.JSON_V1, Format.HTML_V1, Format.HTML_TEXT)
_WILDCARD_ORDER = (Format.HTML_TEXT, Format.HTML_V1, Format.JSON_V1)


def choose(accept: str | None, query_format: str | None) -> Format:
    """The format to answer with.

    `accept` is the Accept header (several joined with commas) or None; `query_format` the
    decoded value of ``?format=``, which wins when it names a format we have (N4).

    Raises NotAcceptable if the client refuses what we have, or names only versions of the
    simple API that we do not speak (N3); everybody else gets ``text/html``.
    """
    if query_format:
        # Form decoding turns the "+" of an unquoted "…v1+json" into a space.
        named = _BY_NAME.get(query_format.strip().lower().replace(" ", "+"))
        if named is not None:
            return named
    if accept is None:
        return Format.HTML_TEXT
    return (_choose if len(accept) <= _LONGEST_CACHED else _choose_uncached)(accept)


def accepts_gzip(accept_encoding: str | None) -> bool:
    """Whether a page may, and should, be sent with gzip (RFC 9110 §12.5.3)."""
    if accept_encoding is None:
        return False
    if len(accept_encoding) > _LONGEST_CACHED:
        return _gzip_uncached(accept_encoding)
    return _gzip(accept_encoding)


def _choose_uncached(accept: str) -> Format:
    ranges = _qualities(accept)
    named: dict[Format, float] = {}
    for media_type, q in ranges.items():
        if media_type in _BY_NAME:
            format = _BY_NAME[media_type]
            named[format] = max(q, named.get(format, 0.0))
    wildcard = {f: _wildcard_q(f, ranges) for f in Format if f not in named}
    best = max((*named.values(), *wildcard.values()))
    if best > 0:
        for order, qualities in ((_NAMED_ORDER, named), (_WILDCARD_ORDER, wildcard)):
            for format in order:
                if qualities.get(format) == best:
                    return format
    return _fallback(ranges)


def _wildcard_q(format: Format, ranges: Mapping[str, float]) -> float:
    group = format.value.partition("/")[0] + "/*"
    return ranges.get(group, ranges.get("*/*", 0.0))


def _fallback(ranges: Mapping[str, float]) -> Format:
    refused = any(ranges.get(name) == 0 for name in ("text/html", "text/*", "*/*"))
    wanted = [media_type for media_type, q in ranges.items() if q > 0]
    if refused or (wanted and all(w.startswith(_SIMPLE) for w in wanted)):
        raise NotAcceptable("this server offers " + ", ".join(f.value for f in Format))
    return Format.HTML_TEXT


def _gzip_uncached(accept_encoding: str) -> bool:
    codings = _qualities(accept_encoding)
    q = codings.get("gzip", codings.get("x-gzip", codings.get("*", 0.0)))
    return q > 0 and q >= codings.get("identity", 0.0)


def _qualities(header: str) -> dict[str, float]:
    """The ranges of an Accept-like header with their q; unreadable elements are left out."""
    found: dict[str, float] = {}
    for element in header.lower().split(","):
        name, *parameters = (part.strip() for part in element.split(";"))
        q = _q(parameters)
        if name and q is not None:
            found[name] = max(q, found.get(name, 0.0))
    return found


def _q(parameters: list[str]) -> float | None:
    for parameter in parameters:
        key, _, value = parameter.partition("=")
        if key.strip() == "q":
            value = value.strip()
            return float(value) if _Q.fullmatch(value) and float(value) <= 1 else None
    return 1.0


_choose = lru_cache(_CACHED_HEADERS)(_choose_uncached)
_gzip = lru_cache(_CACHED_HEADERS)(_gzip_uncached)
