"""Looks for the owner of the log, when this replica has come to follow another replica instead.

Of several `--primary-url` the next is taken when one fails, and that may be a replica. Nothing
fails there, so it would stay for ever, one level further from the primary than it has to be.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from typing import Final

from attrs import define, field
from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from cluster.clock import Clock, Delayed
from cluster.errors import PymirrorError
from replica.follower import Follower
from replica.primary_client import PrimaryClient

LOOK_SECONDS: Final = 20.0


@define(eq=False)
class OwnerSearch:
    """Asks the other candidates every 10 to 20 s, as long as there is a replica in between."""

    _log = Logger()

    _client: PrimaryClient
    _clock: Clock
    _owns: Callable[[str], Awaitable[bool]]
    _chance: random.Random = field(factory=random.Random)
    _timer: Delayed | None = None
    _looking: Deferred[None] | None = None
    _stopped: bool = False

    def start(self) -> None:
        """Begin to look; returns at once."""
        if not self._stopped:
            seconds = LOOK_SECONDS * self._chance.uniform(0.5, 1.0)
            self._timer = self._clock.callLater(seconds, self._look)

    def stop(self) -> None:
        """Look no more."""
        self._stopped = True
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        if self._looking is not None:
            self._looking.cancel()

    def _look(self) -> None:
        self._looking = Deferred.fromCoroutine(self._search())
        self._looking.addErrback(self._failed)
        self._looking.addBoth(lambda _: self.start())

    def _failed(self, failure: Failure) -> None:
        if not self._stopped:
            self._log.failure("looking for the primary failed", failure)

    async def _search(self) -> None:
        if not self._client.chain:
            return
        for url in [one for one in self._client.urls if one != self._client.url]:
            if not self._stopped and await self._owns(url):
                self._log.info("the primary is at {url}: following it", url=url)
                self._client.prefer(url)
                return


@define
class OwnerCheck:
    """Whether the owner of our log answers at a URL, and its log goes on from ours.

    It counts as a poll, so it says no more than what is safe on our disk.
    """

    _client: PrimaryClient
    _follower: Follower
    _epoch: Callable[[], int]
    _report: Callable[[], bytes]

    async def __call__(self, url: str) -> bool:
        """Ask there; whatever is wrong with the answer means no."""
        there, identity, at = self._client.at(url), self._follower.identity, self._follower.durable
        if identity is None or not at.size:
            return False
        try:
            # First it proves that it is of this cluster; then it compares our root with its own.
            if await there.identity() != identity:
                return False
            await there.tail(identity.log, at, self._epoch(), 0.0, self._report())
        except PymirrorError:
            return False
        return not there.chain
