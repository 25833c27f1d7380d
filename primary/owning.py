"""That this primary owns the log, said to all who may believe otherwise."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

from attrs import define, field
from treq.client import HTTPClient

from cluster import peers
from cluster.agent import make_direct_agent
from cluster.log.epochs import Trust
from cluster.parts import Parts
from cluster.state import queries
from primary.fence import Order
from primary.fencing import Fencing, read_fence
from primary.tofence import ToFence, read_left


@define(eq=False)
class Owning:
    """Puts together `Fencing` and `ToFence` of a primary with these parts."""

    parts: Parts
    fencing: Fencing
    to_fence: ToFence = field(init=False)
    _known: list[str] = field(factory=list)

    @classmethod
    async def of(cls, parts: Parts, epoch: Callable[[], int], now: Callable[[], float]) -> Owning:
        """With the fence of the last run, if there is one; `epoch` says the own last epoch, `now`
        seconds since 1970.
        """
        state_dir, heavy = parts.settings.state_dir, parts.pools.heavy
        fence = await heavy.run(read_fence, state_dir)
        fencing = Fencing(state_dir, heavy, epoch, parts.position.wake_all, fence, now)
        return cls(parts, fencing)

    async def begin(self, trust: Trust, epoch: queries.Epoch) -> None:
        """Own the log in `epoch`, and begin to tell of it."""
        parts = self.parts
        state_dir, heavy = parts.settings.state_dir, parts.pools.heavy
        starts = await parts.database.read(queries.starts)
        start = starts[-1] if starts else None
        own = Order(epoch.epoch, parts.settings.outside_url, epoch.key, start)
        self.fencing.own(trust, own)
        self._known = [
            *await heavy.run(peers.kept, state_dir), *await heavy.run(peers.followed, state_dir)
        ]  # fmt: skip
        http = HTTPClient(cast(Any, make_direct_agent(parts.reactor)))
        self.to_fence = ToFence(
            state_dir, http, parts.reactor, heavy, parts.secret, parts.uuid, lambda: own,
            self.fencing.learn, self.peers, await heavy.run(read_left, state_dir),
        )  # fmt: skip
        self.fencing.split = self.to_fence.again
        self.to_fence.start()

    def peers(self) -> list[str]:
        """Where other nodes are, and who else owns our epoch, as far as it is known."""
        fence = self.fencing.fence
        rival = None if fence is None else fence.order.url
        listed = peers.urls_of(self.parts.siblings.nodes(), self.parts.uuid)
        return [*([rival] if rival else []), *listed, *self._known]

    async def stop(self) -> None:
        """Tell nobody any more, and note where the others are, for a promotion."""
        self.to_fence.stop()
        listed = peers.urls_of(self.parts.siblings.nodes(), self.parts.uuid)
        if listed:
            await self.parts.pools.heavy.run(peers.keep, self.parts.settings.state_dir, listed)
