"""Rendered pages: bytes in two encodings, and their ETags."""

from __future__ import annotations

import gzip
from hashlib import sha256

from attrs import define, field, frozen

from cluster.names import NormalizedName
from cluster.simple.negotiate import Format
from cluster.state.projectcache import ProjectCache

_GZIP_LEVEL = 6


@frozen
class Body:
    """One encoding of a page, with its strong ETag (RFC 9110 §8.8.3)."""

    data: bytes
    etag: str


def make_body(data: bytes, suffix: str = "") -> Body:
    """A body whose ETag is a digest of its bytes: equal bytes have equal ETags on all nodes."""
    return Body(data, f'"{sha256(data).hexdigest()[:32]}{suffix}"')


@define
class RenderedPage:
    """A page in one format, plain and gzipped.

    `serial` is that of the last change shown; `read_at` that of the state it was read from.
    `fresh_until` (seconds of the reactor's clock) is when a mirror should be asked again. A
    private page is for some readers only, and no cache on the way may keep it.
    """

    project: NormalizedName
    format: Format
    serial: int
    read_at: int
    plain: Body
    gzipped: Body
    fresh_until: float = float("inf")
    age_seconds: int | None = None
    source: str | None = None
    is_private: bool = False
    # Prepared status lines and headers by (gzipped, not modified); see cluster.web.quick.
    heads: dict[tuple[bool, bool], bytes] = field(factory=dict)

    @property
    def size(self) -> int:
        """Bytes that keeping the page costs."""
        return len(self.plain.data) + len(self.gzipped.data)


def encode_page(
    project: NormalizedName, format: Format, serial: int, read_at: int, data: bytes
) -> RenderedPage:
    """Compress a rendered page and name its bytes. Costs milliseconds: run it in a thread."""
    # The time stamp in gzip's header would give equal pages unequal bytes.
    packed = gzip.compress(data, _GZIP_LEVEL, mtime=0)
    return RenderedPage(
        project, format, serial, read_at, make_body(data), make_body(packed, "-gzip")
    )


PageKey = tuple[bytes, Format, str]
"""Path, format, and for private pages the indexes that they are made of (empty: public)."""
PageCache = ProjectCache[PageKey, RenderedPage]
