"""How a request for a file is answered: status, headers, which bytes (pure)."""

from __future__ import annotations

from attrs import frozen
from twisted.web.http_headers import Headers

from cluster.files import ranges

IMMUTABLE = "max-age=31536000, immutable, public"


@frozen
class FileFacts:
    """What the headers say of a file.

    `sha256` is the entity tag, None while unknown; `last_modified` is in seconds since the epoch.
    """

    sha256: str | None = None
    last_modified: int | None = None
    content_type: str = "application/octet-stream"
    cache_control: str = IMMUTABLE


@frozen
class Plan:
    """How a request is answered. The body, if any, is the bytes from `start` to `stop`.

    `stop` is None for "to the end", while nobody knows the size.
    """

    status: int
    headers: dict[str, str]
    has_body: bool = False
    start: int = 0
    stop: int | None = 0


def plan(method: bytes, fields: Headers, facts: FileFacts, size: int | None) -> Plan:
    """Decide by method and conditions (RFC 9110 §13.2.2) for a file of `size` bytes, if known."""
    headers = {"Accept-Ranges": "bytes", "Cache-Control": facts.cache_control}
    if facts.sha256 is not None:
        headers["ETag"] = f'"{facts.sha256}"'
    if facts.last_modified is not None:
        headers["Last-Modified"] = ranges.http_date(facts.last_modified)
    if _not_modified(fields, facts):
        return Plan(304, headers)
    headers |= {"Content-Type": facts.content_type, "X-Content-Type-Options": "nosniff"}
    try:
        span = _span(method, fields, facts, size)
    except ranges.RangeNotSatisfiable:
        refusal = {"Content-Range": ranges.content_range(None, size or 0), "Content-Length": "0"}
        return Plan(416, refusal)
    if span is not None and size is not None:
        headers["Content-Range"] = ranges.content_range(span, size)
        headers["Content-Length"] = str(span.length)
        return Plan(206, headers, True, span.start, span.stop)
    if size is not None:
        headers["Content-Length"] = str(size)
    return Plan(200, headers, method != b"HEAD", 0, size)


def _not_modified(fields: Headers, facts: FileFacts) -> bool:
    tags = _header(fields, "If-None-Match")
    if tags is not None:
        return ranges.if_none_match(tags, facts.sha256)
    return ranges.not_modified_since(_header(fields, "If-Modified-Since"), facts.last_modified)


def _span(method: bytes, fields: Headers, facts: FileFacts, size: int | None) -> ranges.Span | None:
    # Range is defined for GET alone (RFC 9110 §14.2).
    if method != b"GET" or size is None:
        return None
    condition = _header(fields, "If-Range")
    if not ranges.if_range_matches(condition, facts.sha256, facts.last_modified):
        return None
    return ranges.parse_range(_header(fields, "Range"), size)


def _header(fields: Headers, name: str) -> str | None:
    values = fields.getRawHeaders(name.encode("ascii"))
    return b",".join(values).decode("utf-8", "replace") if values else None
