"""Tells the primary, as soon as it is so, up to which serial everything is durably here."""

from __future__ import annotations

import base64
from collections.abc import Callable

import orjson
from attrs import define
from twisted.internet.defer import Deferred
from twisted.logger import Logger

from cluster.errors import LogError
from cluster.log.merkle import Frontier
from cluster.protocol import COSIGN_PATH
from replica.following import Unreachable
from replica.primary_client import PrimaryClient


@define(eq=False)
class Cosigner:
    """Posts how far the files have come when they have caught up with entries; the poll tells of
    the entries themselves. One request at a time, with what holds when it is sent. Behind a
    replica, `replica.reporting` does it.

    `facts` are where the log is durable, and up to which serial all files in it are.
    """

    _log = Logger()

    _client: PrimaryClient
    _facts: Callable[[], tuple[Frontier, int]]
    _reachable: Callable[[], bool]
    _told: int = 0
    _busy: bool = False
    _stopped: bool = False

    def tell(self) -> None:
        """Something has changed; returns at once."""
        if self._busy or self._stopped or self._client.chain or not self._reachable():
            return
        self._busy = True
        Deferred.fromCoroutine(self._run()).addErrback(
            lambda failure: self._log.failure("telling the primary of files failed", failure)
        )

    def stop(self) -> None:
        """Tell no more."""
        self._stopped = True

    async def _run(self) -> None:
        try:
            while not self._stopped and self._facts()[1] != self._told:
                at, files_position = self._facts()
                if files_position > self._told:
                    await self._send(at, files_position)
                self._told = files_position
        except (Unreachable, LogError) as error:
            # The next poll carries the same.
            self._log.debug("the primary was not told: {error}", error=str(error))
        finally:
            self._busy = False

    async def _send(self, at: Frontier, files_position: int) -> None:
        root = base64.b64encode(at.root).decode()
        body = orjson.dumps({"position": at.size, "root": root, "files_position": files_position})
        headers = self._client.headers("POST", COSIGN_PATH)
        answer = await self._client.ask("POST", COSIGN_PATH, headers, body)
        if answer.status != 204:
            raise LogError(f"cosign is answered {answer.status}")
