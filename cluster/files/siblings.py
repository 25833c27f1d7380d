"""Other nodes as sources of files: which to ask first, and which to leave alone for a while.

A sibling gives what it has, whole or still arriving, and never fetches because of being asked.
What arrives from a sibling is not passed on to another before it is whole, so no two nodes ever
wait for each other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from hashlib import sha256 as hash_of
from typing import Any, Final

from attrs import define, field, frozen
from twisted.internet.defer import Deferred

from cluster.agent import Requester
from cluster.clock import Clock, bounded
from cluster.files.sink import Pausable
from cluster.files.sources import (
    BodySink,
    CutOff,
    HttpSource,
    Source,
    SourceBody,
    SourceError,
    Wanted,
)  # fmt: skip
from cluster.protocol import FILE_PATH

MOST_ASKED: Final = 2
"""Each one that has nothing costs a client a round trip."""
ALL: Final = 16
OPEN_SECONDS: Final = 3.0
SLOW_BYTES: Final = 32 << 10
"""Who sends less than this in a second, for SLOW_SECONDS, is given up."""
SLOW_SECONDS: Final = 10.0
_UNKNOWN_SPEED = 8 << 20
_NEWEST_SHARE = 0.3
_FIRST_DROP_SECONDS, _LAST_DROP_SECONDS = 5.0, 300.0
_MEASURABLE_BYTES = 256 << 10

Headers = Callable[[str], Mapping[str, str]]
"""What proves, in a GET of a path, that a node asks."""


@frozen
class Sibling:
    """Another node of the cluster: `url` is without a slash at its end."""

    uuid: str
    url: str
    region: str | None = None


@define
class _Experience:
    speed: float = _UNKNOWN_SPEED
    failures: int = 0
    dropped_until: float = 0.0


@define(eq=False)
class Siblings:
    """The other nodes that are known, and what was experienced with each."""

    _agent: Requester
    _headers: Headers
    _clock: Clock
    _uuid: str
    _region: str | None
    nodes: Callable[[], Iterable[Mapping[str, Any]]] = tuple
    """The list of nodes (docs/protocol.md), as this node knows it now."""
    _experience: dict[str, _Experience] = field(factory=dict)

    @property
    def members(self) -> list[Sibling]:
        """The replicas that can be asked."""
        return [
            Sibling(str(node["uuid"]), str(node["url"]).rstrip("/"), node.get("region"))
            for node in self.nodes()
            if node.get("role") == "replica" and node.get("url") and node["uuid"] != self._uuid
        ]

    def sources(
        self, sha256: str, most: int = MOST_ASKED, *, arriving: bool = True
    ) -> list[Source]:
        """The best ones to ask for a file, at most so many, best first.

        `arriving` is whether files count that they have not got whole yet.
        """
        now = self._clock.seconds()
        willing = [m for m in self.members if self._of(m).dropped_until <= now]

        def rank(member: Sibling) -> tuple[bool, int, bytes]:
            # Steps of a factor of two: nodes that are about as fast share the files.
            step = -int(self._of(member).speed).bit_length()
            chance = hash_of(f"{member.uuid} {sha256}".encode()).digest()
            return member.region != self._region, step, chance

        return [
            SiblingSource(f"sibling {m.url}", m, self, arriving)
            for m in sorted(willing, key=rank)[:most]
        ]

    def http(self, sibling: Sibling, path: str) -> HttpSource:
        """The source at a path of a sibling."""
        url = sibling.url + path
        return HttpSource(f"sibling {sibling.url}", self._agent, lambda _: url, self._headers(path))

    def delivered(self, sibling: Sibling, size: int, seconds: float) -> None:
        """A sibling sent so many bytes in such a time."""
        experience = self._of(sibling)
        experience.failures, experience.dropped_until = 0, 0.0
        if size >= _MEASURABLE_BYTES:
            speed = size / max(seconds, 0.001)
            experience.speed += _NEWEST_SHARE * (speed - experience.speed)

    def failed(self, sibling: Sibling) -> None:
        """A sibling did not answer, broke off or was too slow: it is left alone for a while."""
        experience = self._of(sibling)
        seconds = min(_LAST_DROP_SECONDS, _FIRST_DROP_SECONDS * 2**experience.failures)
        experience.failures = min(experience.failures + 1, 10)
        experience.dropped_until = self._clock.seconds() + seconds

    def document(self) -> list[dict[str, object]]:
        """The `siblings` part of the status."""
        now = self._clock.seconds()
        return [
            {
                "uuid": member.uuid,
                "url": member.url,
                "bytes_per_second": int(self._of(member).speed),
                "failures": self._of(member).failures,
                "dropped_seconds": round(max(0.0, self._of(member).dropped_until - now), 1),
            }
            for member in self.members
        ]

    @property
    def clock(self) -> Clock:
        """The time by which they are measured."""
        return self._clock

    def _of(self, sibling: Sibling) -> _Experience:
        return self._experience.setdefault(sibling.uuid, _Experience())


@frozen
class SiblingSource:
    """One sibling, asked for one file."""

    name: str
    _sibling: Sibling
    _siblings: Siblings
    _arriving: bool

    async def open(self, wanted: Wanted) -> SourceBody | None:
        """Ask; None at once from a sibling that does not have the file."""
        if wanted.sha256 is None:
            return None
        path = f"{FILE_PATH}/{wanted.sha256}{'?arriving=1' if self._arriving else ''}"
        asking = Deferred.fromCoroutine(self._siblings.http(self._sibling, path).open(wanted))
        try:
            body = await bounded(asking, OPEN_SECONDS, self._siblings.clock)
        except SourceError as error:
            if error.absent:
                return None
            self._siblings.failed(self._sibling)
            raise
        except Exception as error:
            self._siblings.failed(self._sibling)
            raise SourceError(f"no answer within {OPEN_SECONDS:g} s") from error
        return None if body is None else _Measured(body, self._sibling, self._siblings)


@define(eq=False)
class _Measured:
    """A sibling's body, whose speed is measured; given up when it is too slow."""

    _body: SourceBody
    _sibling: Sibling
    _siblings: Siblings
    _sink: BodySink | None = None
    _size: int = 0
    _window_at: float = 0.0
    _window_bytes: int = 0
    _is_slow: bool = False
    passes_on: bool = False
    kept: bool = True

    @property
    def length(self) -> int | None:
        return self._body.length

    @property
    def start(self) -> int:
        return self._body.start

    @property
    def etag(self) -> str | None:
        return self._body.etag

    async def deliver(self, sink: BodySink) -> None:
        """Pass the body on; raises CutOff when it is too slow."""
        clock = self._siblings.clock
        self._sink, begun_at = sink, clock.seconds()
        self._window_at = begun_at
        try:
            await self._body.deliver(self)
        except Exception as error:
            self._siblings.failed(self._sibling)
            if self._is_slow:
                raise CutOff(f"less than {SLOW_BYTES} bytes a second") from error
            raise
        self._siblings.delivered(self._sibling, self._size, clock.seconds() - begun_at)

    def abort(self) -> None:
        """Give the body up."""
        self._body.abort()

    def write(self, data: bytes) -> None:
        """Count, and pass on."""
        assert self._sink is not None  # noqa: S101 (deliver has begun)
        self._size += len(data)
        self._window_bytes += len(data)
        now = self._siblings.clock.seconds()
        if now >= self._window_at + SLOW_SECONDS:
            if self._window_bytes < SLOW_BYTES * (now - self._window_at):
                self._is_slow = True
                self._body.abort()
                return
            self._window_at, self._window_bytes = now, 0
        self._sink.write(data)

    def attach(self, producer: Pausable | None) -> None:
        """Pass on who can be paused."""
        if self._sink is not None:
            self._sink.attach(producer)
