"""A primary that does not own the log alone takes no more writes, from the moment it learns of it.

It learns from the new primary, from `pymirror promote`, from a replica that follows another
owner, or from one that holds a head which this primary has signed and does not have. That is
durable: a restart does not bring it back. `pymirror demote` makes a replica of it, `pymirror
promote` the owner of a new epoch.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from attrs import define, evolve, field
from twisted.internet.defer import Deferred, DeferredLock
from twisted.logger import Logger

from cluster.durable import write_durably
from cluster.errors import InvalidRequest, PymirrorError, Unavailable
from cluster.log.epochs import Start, Trust
from cluster.promotion import FENCED_FILE
from cluster.threads import Runner
from primary.fence import Fence, Order, Why, decode_fence, is_key


class Superseded(Unavailable):
    """A write to a primary that owns the log no more, or not alone (RFC 9110 §15.6.4)."""

    def __init__(self, message: str, primary_url: str | None) -> None:
        super().__init__(message)
        self.primary_url = primary_url


class NotOwner(PymirrorError):
    """A question that only the owner of the log answers (RFC 9110 §15.5.20)."""

    status = 421

    def __init__(self, message: str, primary_url: str | None) -> None:
        super().__init__(message)
        self.primary_url = primary_url


def read_fence(state_dir: Path) -> Fence | None:
    """The fence of a state folder, or None; blocking."""
    try:
        return decode_fence((state_dir / FENCED_FILE).read_bytes())
    except FileNotFoundError:
        return None


@define
class Fencing:
    """Whether this primary still owns the log; `epoch` is that of its own last entry, `now` is in
    seconds since 1970.

    `_wake` answers those who wait for news: they must hear of it at once. `split` is called when
    another owner of our epoch turns up.
    """

    _log = Logger()

    _state_dir: Path
    _threads: Runner
    _epoch: Callable[[], int]
    _wake: Callable[[], None]
    fence: Fence | None
    _now: Callable[[], float]
    split: Callable[[], None] = lambda: None
    _own: Order | None = None
    _trust: Trust | None = None
    _written: Fence | None = field(init=False)
    _writing: DeferredLock = field(factory=DeferredLock, init=False)

    def __attrs_post_init__(self) -> None:
        self._written = self.fence

    def own(self, trust: Trust, order: Order) -> None:
        """This primary owns the log in `order.epoch`, by its key and `start`.

        A fence of an earlier epoch is from before its promotion; one of this epoch too, unless
        it names another owner.
        """
        self._own, self._trust = order, trust
        if self.fence is None or self.fence.epoch > order.epoch:
            return
        if self.fence.epoch < order.epoch:
            self.fence = None
        elif self.fence.why is Why.SUPERSEDED:
            is_other = self.fence.order.key not in (None, order.key)
            self.fence = evolve(self.fence, why=Why.SPLIT) if is_other else None

    def check(self) -> None:
        """Raise Superseded when another primary owns the log: nothing may be written here."""
        if self.fence is not None:
            raise Superseded(self.fence.message, self.fence.url)

    def require_owner(self) -> None:
        """Raise NotOwner when another primary owns the log: nobody may follow this one."""
        if self.fence is not None and not self.fence.serves:
            raise NotOwner(self.fence.message, self.fence.url)

    def require_asked(self) -> None:
        """As `require_owner`, but for a log that is not what it was: who has followed it is to
        hear that, as long as it differs.
        """
        if self.fence is None or self.fence.why is not Why.RESTORED:
            self.require_owner()

    def document(self) -> dict[str, Any] | None:
        """The `fenced` part of the status: None while this primary owns the log."""
        return None if self.fence is None else self.fence.document()

    def owner(self) -> Order:
        """Who owns the log, as far as it is known here: the answer to `POST /+node/fence`."""
        if self.fence is not None and self.fence.why is Why.SUPERSEDED:
            return self.fence.order
        return self._own or Order(self._epoch())

    async def learn(self, order: Order) -> None:
        """A node says who owns the log; raises InvalidRequest for a proof that does not hold.

        Order: from this moment nothing is written here; then the fence is made durable.
        """
        if order.start is not None and not self._is_proven(order.start):
            raise InvalidRequest("that epoch was not started by a node of this cluster")
        own = self._epoch()
        is_rival = order.epoch == own and order.key not in (None, self._key)
        if order.epoch > own:
            await self._stop(Fence(order, Why.SUPERSEDED, self._now()))
        elif is_rival and order.begun:
            await self._stop(Fence(order, Why.SPLIT, self._now()))

    async def disown(self, note: bytes) -> None:
        """Our own key has signed this checkpoint, of a log that is not ours."""
        order = Order(self._epoch(), key=self._key)
        await self._stop(Fence(order, Why.RESTORED, self._now(), note.decode()))

    async def followed(self, epoch: int, key: str | None, rival: str | None) -> None:
        """A replica follows the owner of `epoch` with this key, and has met another, if any."""
        for one in (key, rival):
            if one is None or is_key(one):
                await self.learn(Order(epoch, key=one))

    @property
    def _key(self) -> str | None:
        return None if self._own is None else self._own.key

    def _is_proven(self, start: Start) -> bool:
        return self._trust is not None and start.is_proven(self._trust)

    async def _stop(self, fence: Fence) -> None:
        after = self._after(fence)
        if after != self.fence:
            self.fence = after
            self._log.error("fenced: {message}", message=after.message)
            self._wake()
        # Klein cancels the answer to a node that left; but a thread goes on, and must end before
        # the next fence is written.
        kept: Deferred[None] = Deferred()
        Deferred.fromCoroutine(self._keep()).chainDeferred(kept)
        await kept

    async def _keep(self) -> None:
        """Return when the fence is on disk, also if somebody else has begun to write it."""
        await self._writing.acquire()
        try:
            before, fence = self._written, self.fence
            if fence is None or fence == before:
                return
            data = fence.encoded()
            await self._threads.run(write_durably, self._state_dir / FENCED_FILE, data)
            self._written = fence
        finally:
            self._writing.release()
        was = None if before is None else (before.why, before.epoch)
        if fence.why is Why.SPLIT and was != (fence.why, fence.epoch):
            self.split()

    def _after(self, fence: Fence) -> Fence:
        if self.fence is None or self.fence.epoch < fence.epoch:
            return fence
        if self.fence.epoch == fence.epoch and self.fence.why is fence.why:
            return self.fence.with_more(fence.order)
        return self.fence
