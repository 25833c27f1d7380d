"""A node's life as a service: open, listen, stop."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from attrs import define, field
from twisted.application.service import Service
from twisted.internet.defer import CancelledError, Deferred, DeferredList
from twisted.internet.endpoints import serverFromString
from twisted.internet.error import CannotListenError
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from cluster.clock import bounded
from cluster.errors import PymirrorError
from cluster.log.driver import disk_error
from cluster.options import NodeSettings
from cluster.parts import Parts
from cluster.runtime import share_arenas, spare_the_collector
from cluster.web.request import NodeHandlers, NodeSite

SHUTDOWN_SECONDS = 30.0
_FLUSH_SECONDS = 0.2


@define(eq=False)
class NodeService(Service):
    """A node's life: open, listen; at the end stop listening, finish what is in flight, close.

    `compose` makes the role (a primary or a replica) with its parts, given the reactor.
    """

    _log = Logger()

    reactor: Any
    settings: NodeSettings
    compose: Callable[[Any], Any]
    _parts: Parts | None = None
    _site: NodeSite | None = None
    _ports: list[Any] = field(factory=list)
    _role: Any = None

    def startService(self) -> None:
        """Begin; a node that cannot start says why and ends the process with status 1."""
        super().startService()
        share_arenas()
        Deferred.fromCoroutine(self._start()).addErrback(self._give_up)

    async def _start(self) -> None:
        self._role = self.compose(self.reactor)
        self._parts = parts = self._role.parts
        for pool in parts.pools.all():
            pool.start()
        await parts.store.open()
        await parts.root_password.look()
        web: NodeHandlers = await self._role.start()
        parts.search.start()
        self._site = NodeSite(web.app.resource(), web)  # type: ignore[attr-defined]
        spare_the_collector()  # before the first request: it takes a moment
        for endpoint in self.settings.listen:
            port = await serverFromString(self.reactor, endpoint).listen(self._site)
            self._ports.append(port)
            self._log.info("{role} listens on {port}", role=self._role.name, port=port.getHost())

    def _give_up(self, failure: Failure) -> None:
        refused = disk_error(failure.value)
        if refused is not None:
            message = f"a database in {self.settings.state_dir}: {refused}"
        elif failure.check(PymirrorError, OSError, CannotListenError):
            message = str(failure.value)
        else:
            self._log.failure("the node cannot start", failure)
            message = repr(failure.value)
        sys.stderr.write(f"pymirror cannot start: {message}\n")
        self.reactor.addSystemEventTrigger("after", "shutdown", os._exit, 1)
        self.reactor.callWhenRunning(self.reactor.stop)

    def stopService(self) -> Deferred[None]:
        """End in order; what is in flight gets up to SHUTDOWN_SECONDS."""
        super().stopService()
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        await DeferredList([port.stopListening() for port in self._ports])
        if self._site is not None:
            self._role.stop_waiting()
            idle = Deferred.fromCoroutine(self._site.idle())
            with suppress(CancelledError):
                await bounded(idle, SHUTDOWN_SECONDS, self.reactor)
            # The last answers are still in their connections' buffers; a process that ended in
            # this turn of the reactor would take them along.
            await deferLater(self.reactor, _FLUSH_SECONDS)
            await self._role.stop()
        if self._parts is not None:
            await self._parts.close()
