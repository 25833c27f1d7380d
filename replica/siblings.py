"""The nodes of the cluster as the primary lists them: fetched now and then, and kept.

Where they are is also noted in the state folder (`cluster.peers`), for the time after the primary.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Final

import orjson
from attrs import define, field
from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from cluster import peers
from cluster.clock import Clock
from cluster.errors import PymirrorError
from cluster.protocol import NODES_PATH
from replica.primary_client import PrimaryClient

REFRESH_SECONDS: Final = 10.0
_ANSWER_BYTES = 1 << 20


@define(eq=False)
class Siblings:
    """Asks for the list every 10 s; `nodes` is the last answer, this node and the primary
    included. `keep` notes the URLs of the others, those of the node `own` left out.
    """

    _log = Logger()

    _client: PrimaryClient
    _clock: Clock
    _own: str
    _keep: Callable[[Iterable[str]], Awaitable[None]]
    nodes: list[dict[str, Any]] = field(factory=list)
    _at: float = float("-inf")
    _noted: list[str] | None = None
    _running: Deferred[None] | None = None
    _pause: Deferred[None] | None = None
    _stopped: bool = False

    @property
    def age_seconds(self) -> float:
        """How old the list is; infinite before the first."""
        return self._clock.seconds() - self._at

    def start(self) -> None:
        """Begin to ask; returns at once."""
        self._running = Deferred.fromCoroutine(self._run())
        self._running.addErrback(_cancelled)

    async def stop(self) -> None:
        """Ask no more."""
        self._stopped = True
        if self._running is not None and not self._running.called:
            self._running.cancel()
            await self._running

    async def _run(self) -> None:
        while not self._stopped:
            try:
                await self.refresh()
            except PymirrorError as error:
                self._log.debug("no list of nodes: {error}", error=str(error))
            # A question that was cancelled by the stop ends as one that was not answered.
            if not self._stopped:
                await self._wait()

    async def refresh(self) -> None:
        """Ask now; raises Unreachable, LogError."""
        answer = await self._client.ask(
            "GET", NODES_PATH, self._client.headers(), limit_bytes=_ANSWER_BYTES
        )
        listed = _listed(answer.body) if answer.status == 200 else None
        if listed is not None:
            self.nodes, self._at = listed, self._clock.seconds()
            urls = sorted(peers.urls_of(listed, self._own))
            if urls != self._noted:
                await self._keep(urls)
                self._noted = urls

    async def _wait(self) -> None:
        self._pause = Deferred()
        timer = self._clock.callLater(REFRESH_SECONDS, self._go_on)
        try:
            await self._pause
        finally:
            if timer.active():
                timer.cancel()

    def _go_on(self) -> None:
        if self._pause is not None and not self._pause.called:
            self._pause.callback(None)


def _listed(body: bytes) -> list[dict[str, Any]] | None:
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError:
        return None
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else None


def _cancelled(failure: Failure) -> None:
    failure.trap(CancelledError)
