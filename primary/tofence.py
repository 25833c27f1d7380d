"""A new primary tells those before it that they are replaced, until each has heard it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import orjson
from attrs import define
from treq.client import HTTPClient
from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.web.http_headers import Headers

from cluster.agent import Response
from cluster.auth.nodes import NodeSecret
from cluster.clock import Clock, Delayed, bounded
from cluster.durable import write_durably
from cluster.promotion import FENCE_FILE
from cluster.protocol import FENCE_PATH, NODE_HEADER
from cluster.threads import Runner
from cluster.upstream.client import drop, explain

_EVERY_SECONDS = 5.0
_ANSWER_SECONDS = 10.0


@define(eq=False)
class ToFence:
    """Sends the fence to the primaries before this one; `url` is where this one is reached."""

    _log = Logger()

    _state_dir: Path
    _http: HTTPClient
    _clock: Clock
    _threads: Runner
    _secret: NodeSecret
    _uuid: str
    _epoch: Callable[[], int]
    _url: str | None
    _left: list[str]
    _timer: Delayed | None = None
    _stopped: bool = False

    @property
    def left(self) -> list[str]:
        """The URLs of primaries that have not heard it yet."""
        return list(self._left)

    def start(self) -> None:
        """Tell them now, and again every few seconds while some are left."""
        if self._left and not self._stopped:
            Deferred.fromCoroutine(self._tell()).addErrback(self._failed)

    def stop(self) -> None:
        """Tell nobody any more."""
        self._stopped = True
        if self._timer is not None and self._timer.active():
            self._timer.cancel()

    def _failed(self, failure: object) -> None:
        self._log.error("cannot fence: {failure}", failure=failure)
        self._again_later()

    def _again_later(self) -> None:
        if self._left and not self._stopped:
            self._timer = self._clock.callLater(_EVERY_SECONDS, self.start)

    async def _tell(self) -> None:
        for url in list(self._left):
            if await self._fenced(url):
                self._left.remove(url)
                lines = "".join(f"{one}\n" for one in self._left).encode()
                await self._threads.run(write_durably, self._state_dir / FENCE_FILE, lines)
        self._again_later()

    async def _fenced(self, url: str) -> bool:
        body = orjson.dumps({"epoch": self._epoch(), "url": self._url})
        try:
            work = Deferred.fromCoroutine(self._post(url, body))
            status = await bounded(work, _ANSWER_SECONDS, self._clock)
        except Exception as error:
            self._log.debug("cannot fence {url} yet: {why}", url=url, why=explain(error))
            return False
        # 404, 405, 421: what listens there is no primary of ours any more.
        return status in (200, 404, 405, 421)

    async def _post(self, url: str, body: bytes) -> int:
        token = self._secret.token(self._uuid, "POST", FENCE_PATH)
        headers = Headers({NODE_HEADER: [token], "Content-Type": ["application/json"]})
        # Redirects are not followed: they would carry our token away.
        response: Response = await self._http.post(
            url + FENCE_PATH, headers=headers, data=body, allow_redirects=False, unbuffered=True
        )
        drop(response)
        return response.code


def read_left(state_dir: Path) -> list[str]:
    """The URLs of primaries before this one that must still be told; blocking."""
    try:
        return (state_dir / FENCE_FILE).read_text().split()
    except FileNotFoundError:
        return []
