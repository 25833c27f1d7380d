"""Tells the primary, between two polls, up to which serial everything is durably here."""

from __future__ import annotations

import base64
from collections.abc import Callable

import orjson
from attrs import define
from twisted.internet.defer import Deferred
from twisted.logger import Logger

from cluster.clock import Clock, Delayed
from cluster.errors import LogError
from cluster.log.merkle import Frontier
from cluster.protocol import COSIGN_PATH, REPLICA_HEADER
from replica.following import Unreachable
from replica.primary_client import PrimaryClient

_RETRY_SECONDS = 0.5


@define(eq=False)
class Cosigner:
    """Posts how far the log and its files have come: one request at a time, with what holds when
    it is sent. Behind a replica, `replica.reporting` does it.

    `facts` are where the log is durable, and up to which serial all files in it are; `report` is
    what polls carry, which is as old as the last of them otherwise.
    """

    _log = Logger()

    _client: PrimaryClient
    _facts: Callable[[], tuple[Frontier, int]]
    _reachable: Callable[[], bool]
    _report: Callable[[], bytes]
    _clock: Clock
    _told: tuple[Frontier, int] = (Frontier(), 0)
    _has_news: bool = False
    _busy: bool = False
    _stopped: bool = False
    _again: Delayed | None = None

    def tell_files(self) -> None:
        """Files have come; returns at once. Of entries alone, the next poll tells."""
        if self._facts()[1] != self._told[1]:
            self.tell()

    def tell(self) -> None:
        """Something has changed; returns at once."""
        self._has_news = True
        if self._busy or self._stopped or self._client.chain or not self._reachable():
            return
        self._busy = True
        Deferred.fromCoroutine(self._run()).addErrback(
            lambda failure: self._log.failure("telling the primary how far we are failed", failure)
        )

    def stop(self) -> None:
        """Tell no more."""
        self._stopped = True
        if self._again is not None and self._again.active():
            self._again.cancel()

    async def _run(self) -> None:
        try:
            while self._has_news and not self._stopped:
                self._has_news = False
                facts = self._facts()
                if facts != self._told:
                    await self._send(*facts)
                    self._told = facts
        except LogError as error:
            self._log.debug("the primary was not told: {error}", error=str(error))
        except Unreachable as error:
            self._log.debug("the primary was not told: {error}", error=str(error))
            # The next poll carries the same, but may be long in coming while pages are streamed.
            if not self._stopped:
                self._again = self._clock.callLater(_RETRY_SECONDS, self.tell)
        finally:
            self._busy = False

    async def _send(self, at: Frontier, files_position: int) -> None:
        root = base64.b64encode(at.root).decode()
        body = orjson.dumps({"position": at.size, "root": root, "files_position": files_position})
        report = {REPLICA_HEADER: self._report().decode()}
        headers = {**self._client.headers("POST", COSIGN_PATH), **report}
        answer = await self._client.ask("POST", COSIGN_PATH, headers, body)
        if answer.status != 204:
            raise LogError(f"cosign is answered {answer.status}")
