"""A new primary tells the others that it owns the log, until each has heard it.

They answer who owns it as far as they know. So two nodes that were both promoted hear of each
other as soon as one of them reaches the other, or anybody whom the other has reached.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

from attrs import define, evolve
from treq.client import HTTPClient
from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.web.http_headers import Headers

from cluster.agent import Response
from cluster.auth.nodes import NodeSecret
from cluster.clock import Clock, Delayed, bounded
from cluster.durable import write_durably
from cluster.errors import InvalidRequest
from cluster.promotion import FENCE_FILE
from cluster.protocol import FENCE_PATH, NODE_HEADER
from cluster.threads import Runner
from cluster.upstream.client import drop, explain, read_body
from primary.fence import Order, fence_order

_EVERY_SECONDS = 5.0
_ANSWER_SECONDS = 10.0
_ANSWER_BYTES = 64 << 10


@define(eq=False)
class ToFence:
    """Sends `own`, our ownership, to the nodes at `left`; `learn` hears what they answer, and
    `peers` are all nodes that are known.
    """

    _log = Logger()

    _state_dir: Path
    _http: HTTPClient
    _clock: Clock
    _threads: Runner
    _secret: NodeSecret
    _uuid: str
    _own: Callable[[], Order]
    _learn: Callable[[Order], Awaitable[None]]
    _peers: Callable[[], list[str]]
    _left: list[str]
    _timer: Delayed | None = None
    _telling: bool = False
    _stopped: bool = False

    @property
    def left(self) -> list[str]:
        """The URLs of nodes that have not heard it yet."""
        return list(self._left)

    def start(self) -> None:
        """Tell them now, and again every few seconds while some are left."""
        if self._left and not self._stopped and not self._telling:
            self._telling = True
            Deferred.fromCoroutine(self._tell()).addErrback(self._failed)

    def again(self) -> None:
        """Tell all nodes that are known: somebody among them believes to own the log as well."""
        self._left = list(dict.fromkeys([*self._left, *self._peers()]))
        self.start()

    def stop(self) -> None:
        """Tell nobody any more."""
        self._stopped = True
        if self._timer is not None and self._timer.active():
            self._timer.cancel()

    def _failed(self, failure: object) -> None:
        self._log.error("cannot fence: {failure}", failure=failure)
        self._again_later()

    def _again_later(self) -> None:
        self._telling = False
        if self._left and not self._stopped:
            if self._timer is not None and self._timer.active():
                self._timer.cancel()
            self._timer = self._clock.callLater(_EVERY_SECONDS, self.start)

    async def _tell(self) -> None:
        for url in list(self._left):
            if await self._told(url):
                self._left.remove(url)
                lines = "".join(f"{one}\n" for one in self._left).encode()
                await self._threads.run(write_durably, self._state_dir / FENCE_FILE, lines)
        self._again_later()

    async def _told(self, url: str) -> bool:
        try:
            work = Deferred.fromCoroutine(self._post(url, self._own().encoded()))
            status, body = await bounded(work, _ANSWER_SECONDS, self._clock)
        except Exception as error:
            self._log.debug("cannot fence {url} yet: {why}", url=url, why=explain(error))
            return False
        if status == 200:
            await self._heard(url, body)
        # 404, 405, 421: what listens there is no primary of ours.
        return status in (200, 404, 405, 421)

    async def _heard(self, url: str, body: bytes) -> None:
        """What another primary says of the owner counts as far as it is proven."""
        try:
            said = fence_order(body)
            if said.start is not None:
                await self._learn(evolve(said, url=said.url or url))
        except InvalidRequest as error:
            # One of an older version says nothing of it.
            self._log.debug("{url} names no owner: {why}", url=url, why=str(error))

    async def _post(self, url: str, body: bytes) -> tuple[int, bytes]:
        token = self._secret.token(self._uuid, "POST", FENCE_PATH)
        headers = Headers({NODE_HEADER: [token], "Content-Type": ["application/json"]})
        # Redirects are not followed: they would carry our token away.
        response: Response = await self._http.post(
            url + FENCE_PATH, headers=headers, data=body, allow_redirects=False, unbuffered=True
        )
        if response.code == 200:
            return 200, await read_body(response, _ANSWER_BYTES)
        drop(response)
        return response.code, b""


def read_left(state_dir: Path) -> list[str]:
    """The URLs of nodes that must still be told; blocking."""
    try:
        return (state_dir / FENCE_FILE).read_text().split()
    except FileNotFoundError:
        return []
