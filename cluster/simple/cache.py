"""Rendered bytes and their ETags, kept by project, bounded in bytes.

A page stays valid until a change touches its project (on any index: names are few, and one
rule is easy to trust) or any index's options. Lives on the reactor; rendering happens in
threads, so a page that was rendered from an older state than a change it should show is
recognised by its serial and not kept.
"""

from __future__ import annotations

import gzip
from collections import OrderedDict
from hashlib import sha256

from attrs import define, field, frozen

from cluster.names import NormalizedName
from cluster.simple.negotiate import Format
from cluster.state.apply import Touched
from cluster.state.position import Head

_FORGET_CHANGES_ABOVE = 20_000
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
    `fresh_until` (seconds of the reactor's clock) is when a mirror should be asked again.
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


Key = tuple[bytes, Format]


@define
class PageCache:
    """The least recently used pages go first when `limit_bytes` is exceeded."""

    limit_bytes: int
    used_bytes: int = 0
    _pages: OrderedDict[Key, RenderedPage] = field(factory=OrderedDict)
    _by_project: dict[NormalizedName, set[Key]] = field(factory=dict)
    # When each project last changed, and the serial below which nothing may be added.
    _changed: dict[str, int] = field(factory=dict)
    _floor: int = 0

    def get(self, key: Key) -> RenderedPage | None:
        """A valid page."""
        page = self._pages.get(key)
        if page is not None:
            self._pages.move_to_end(key)
        return page

    def put(self, key: Key, page: RenderedPage) -> None:
        """Keep a page, unless something it shows changed after it was read."""
        if page.read_at < max(self._floor, self._changed.get(page.project, 0)):
            return
        self._drop(key)
        self._pages[key] = page
        self._by_project.setdefault(page.project, set()).add(key)
        self.used_bytes += page.size
        while self.used_bytes > self.limit_bytes and self._pages:
            self._drop(next(iter(self._pages)))

    def changed(self, head: Head, touched: Touched) -> None:
        """Forget what a commit made invalid (a `Position` listener)."""
        if touched.indexes:
            self.clear(head.serial)
        for name in touched.projects:
            self._changed[name] = head.serial
            for key in list(self._by_project.get(NormalizedName(name), ())):
                self._drop(key)
        if len(self._changed) > _FORGET_CHANGES_ABOVE:
            self._changed.clear()
            self._floor = head.serial

    def clear(self, serial: int) -> None:
        """Forget everything; nothing read before `serial` is kept any more."""
        self._pages.clear()
        self._by_project.clear()
        self.used_bytes = 0
        self._floor = serial

    def _drop(self, key: Key) -> None:
        page = self._pages.pop(key, None)
        if page is None:
            return
        self.used_bytes -= page.size
        keys = self._by_project[page.project]
        keys.discard(key)
        if not keys:
            del self._by_project[page.project]
