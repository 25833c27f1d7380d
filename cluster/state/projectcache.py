"""What was made of the state, kept by project, bounded in bytes.

A value stays valid until a change touches its project (on any index: names are few, and one
rule is easy to trust) or any index's options. Lives on the reactor; values are made in threads,
so one that was made of an older state than a change it should show is recognised by its serial
and not kept.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, Protocol, TypeVar

from attrs import define, field

from cluster.names import NormalizedName
from cluster.state.position import Head
from cluster.state.rows import Touched

_FORGET_CHANGES_ABOVE = 20_000


class OfProject(Protocol):
    """A value made of one project's state."""

    @property
    def project(self) -> NormalizedName:
        """The project."""

    @property
    def read_at(self) -> int:
        """The serial of the state that it was made of, or an older one."""

    @property
    def size(self) -> int:
        """Bytes that keeping it costs."""


K = TypeVar("K", bound=Hashable)
V = TypeVar("V", bound=OfProject)


@define
class ProjectCache(Generic[K, V]):
    """The least recently used values go first when `limit_bytes` is exceeded."""

    limit_bytes: int
    used_bytes: int = 0
    _values: OrderedDict[K, V] = field(factory=OrderedDict)
    _by_project: dict[NormalizedName, set[K]] = field(factory=dict)
    # When each project last changed, and the serial below which nothing may be added.
    _changed: dict[str, int] = field(factory=dict)
    _floor: int = 0

    def get(self, key: K) -> V | None:
        """A value that is still valid."""
        value = self._values.get(key)
        if value is not None:
            self._values.move_to_end(key)
        return value

    def put(self, key: K, value: V) -> None:
        """Keep a value, unless something it depends on changed after it was read."""
        if value.read_at < max(self._floor, self._changed.get(value.project, 0)):
            return
        self._drop(key)
        self._values[key] = value
        self._by_project.setdefault(value.project, set()).add(key)
        self.used_bytes += value.size
        while self.used_bytes > self.limit_bytes and self._values:
            self._drop(next(iter(self._values)))

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
        self._values.clear()
        self._by_project.clear()
        self.used_bytes = 0
        self._floor = serial

    def _drop(self, key: K) -> None:
        value = self._values.pop(key, None)
        if value is None:
            return
        self.used_bytes -= value.size
        keys = self._by_project[value.project]
        keys.discard(key)
        if not keys:
            del self._by_project[value.project]
