"""Requests, counted on the hot path: a few comparisons of bytes and one addition each."""

from __future__ import annotations

from attrs import define, field

Kind = str
"""`page`, `list`, `file`, `upload`, `write`, `log`, `node` or `other`."""


@define
class RequestCounts:
    """How many requests were answered, by kind and first digit of the status.

    `hot` of them were answered from memory, without database and routing. Cached pages, the most
    frequent requests, have integers of their own.
    """

    _others: dict[tuple[Kind, int], int] = field(factory=dict)
    hot: int = 0
    pages: int = 0
    pages_unchanged: int = 0

    @property
    def by_kind(self) -> dict[tuple[Kind, int], int]:
        """The counts by kind and first digit of the status."""
        found = dict(self._others)
        for key, number in ((("page", 2), self.pages), (("page", 3), self.pages_unchanged)):
            if number:
                found[key] = found.get(key, 0) + number
        return found

    def count(self, method: bytes, path: bytes, status: int, *, is_upload: bool = False) -> None:
        """A request was answered."""
        key = ("upload" if is_upload else kind_of(method, path), status // 100)
        self._others[key] = self._others.get(key, 0) + 1


def kind_of(method: bytes, path: bytes) -> Kind:
    """What a request is about."""
    if method != b"GET" and method != b"HEAD":
        return "node" if path.startswith(b"/+") else "write"
    if b"/+simple/" in path:
        return "list" if path.endswith(b"/+simple/") else "page"
    if b"/+f/" in path or b"/+e/" in path:
        return "file"
    if path.startswith(b"/+"):
        return "log" if path.startswith(b"/+log/") else "node"
    return "other"
