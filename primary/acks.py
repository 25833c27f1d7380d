"""When a write is acknowledged: as soon as it is durable here, or once k replicas have it too.

A replica has a write when its entries, and for uploads the bytes that they name, are durable
there. So the loss of this machine loses nothing that was acknowledged, as long as one of those
replicas is promoted.
"""

from __future__ import annotations

from collections.abc import Callable

from attrs import define, field
from twisted.internet.defer import Deferred

from cluster.clock import Clock, Delayed
from cluster.errors import Unavailable
from cluster.names import IndexName
from cluster.state.directory import Directory
from primary.writer import Written

WAIT_SECONDS = 30.0
# A replica that has not been heard of for longer than a poll takes counts for nothing.
_HEARD_SECONDS = 60.0
_OWN_ACTORS = frozenset({"+mirror", "+bootstrap", "+join"})


class NotReplicated(Unavailable):
    """As many replicas as were asked for do not have the write; the text says whether it is
    stored here.
    """


@define
class Cosigned:
    """How far a replica has the log, and how far all uploaded files in it; `at` is when it said
    so, by the reactor's clock.
    """

    position: int
    files_position: int
    at: float


@define(eq=False)
class _Waiter:
    serial: int
    wanted: int
    with_files: bool
    done: Deferred[bool]
    timer: Delayed | None = None


@define(eq=False)
class Acks:
    """What replicas say to have durably, and who waits for that.

    `on_wait` hears of each serial that somebody begins to wait for.
    """

    _clock: Clock
    _directory: Directory
    level: int = 0
    on_wait: Callable[[int], None] = lambda serial: None
    _begun_at: float = field(init=False)
    _replicas: dict[str, Cosigned] = field(factory=dict)
    _waiting: list[_Waiter] = field(factory=list)

    def __attrs_post_init__(self) -> None:
        self._begun_at = self._clock.seconds()

    def cosigned(self, node: str, position: int, files_position: int) -> None:
        """A replica has everything up to these serials durably."""
        self._replicas[node] = Cosigned(position, files_position, self._clock.seconds())
        for waiter in [w for w in self._waiting if self._enough(w)]:
            self._end(waiter, True)

    def position(self, node: str) -> int:
        """How far a replica says to have the log durably; 0 for one that is not known."""
        replica = self._replicas.get(node)
        return replica.position if replica else 0

    def forget(self, node: str) -> None:
        """A replica counts no more."""
        self._replicas.pop(node, None)

    async def confirm(self, actor: str, written: Written, index: IndexName | None) -> None:
        """Wait until as many replicas have a write as the node or its index asks for.

        What pymirror writes by itself waits for nobody: no client believes it to be safe.
        Raises NotReplicated.
        """
        if actor in _OWN_ACTORS:
            return
        wanted = await self._wanted(index)
        await self.reached(written.serial, wanted, with_files=written.with_files)

    async def require_reachable(self, index: IndexName) -> None:
        """Refuse what so few replicas would hear of that it could not be acknowledged.

        After a start they have the time that they count for to be heard of. Raises NotReplicated.
        """
        wanted, heard = await self._wanted(index), self.holders(0, with_files=False)
        if heard < wanted and self._clock.seconds() - self._begun_at >= _HEARD_SECONDS:
            raise NotReplicated(
                f"this request has stored nothing: {wanted} replicas must have it, and {heard} "
                f"were heard of within {_HEARD_SECONDS:.0f} s"
            )

    async def _wanted(self, index: IndexName | None) -> int:
        found = None if index is None else await self._directory.index(index)
        return max(self.level, found.options.get("sync_replicas", 0) if found else 0)

    async def reached(self, serial: int, wanted: int, *, with_files: bool) -> None:
        """Wait until `wanted` replicas have `serial`; raises NotReplicated after WAIT_SECONDS."""
        waiter = _Waiter(serial, wanted, with_files, Deferred())
        if wanted <= 0 or self._enough(waiter):
            return
        self._waiting.append(waiter)
        waiter.timer = self._clock.callLater(WAIT_SECONDS, self._end, waiter, False)
        self.on_wait(serial)
        try:
            is_reached = await waiter.done
        finally:
            self._forget(waiter)  # who waited may be gone
        if not is_reached:
            raise NotReplicated(
                f"stored here with serial {serial}, but not on {wanted} replicas within "
                f"{WAIT_SECONDS:.0f} s; try again: the same write is then only confirmed"
            )

    def stop(self) -> None:
        """Answer those who wait: the node is going down."""
        for waiter in list(self._waiting):
            self._end(waiter, False)

    def holders(self, serial: int, *, with_files: bool) -> int:
        """How many replicas have a serial."""
        now = self._clock.seconds()
        return sum(
            (replica.files_position if with_files else replica.position) >= serial
            for replica in self._replicas.values()
            if now - replica.at <= _HEARD_SECONDS
        )

    def _enough(self, waiter: _Waiter) -> bool:
        return self.holders(waiter.serial, with_files=waiter.with_files) >= waiter.wanted

    def _forget(self, waiter: _Waiter) -> None:
        if waiter in self._waiting:
            self._waiting.remove(waiter)
        if waiter.timer is not None and waiter.timer.active():
            waiter.timer.cancel()

    def _end(self, waiter: _Waiter, reached: bool) -> None:
        self._forget(waiter)
        if not waiter.done.called:
            waiter.done.callback(reached)
