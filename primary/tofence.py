"""A new primary tells the others that it owns the log, until each has heard it.

They answer who owns it as far as they know. So two nodes that were both promoted hear of each
other as soon as one of them reaches the other, or anybody whom the other has reached.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

from attrs import define, evolve, field
from treq.client import HTTPClient
from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.http_headers import Headers

from cluster.agent import Response
from cluster.auth.nodes import NodeSecret
from cluster.clock import Clock, bounded, pause
from cluster.durable import write_durably
from cluster.errors import InvalidRequest
from cluster.promotion import FENCE_FILE, NO_PRIMARY
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
    _telling: dict[str, Deferred[None]] = field(factory=dict)
    _stopped: bool = False

    @property
    def left(self) -> list[str]:
        """The URLs of nodes that have not heard it yet."""
        return list(self._left)

    def start(self) -> None:
        """Tell each now, and again every few seconds until it has heard it: a node that hangs
        must not keep the others from it.
        """
        for url in self._left:
            if url not in self._telling and not self._stopped:
                work = Deferred.fromCoroutine(self._tell(url))
                self._telling[url] = work
                work.addErrback(self._failed)

    def again(self) -> None:
        """Tell all nodes that are known: somebody among them believes to own the log as well."""
        self._left = list(dict.fromkeys([*self._left, *self._peers()]))
        self.start()

    def stop(self) -> None:
        """Tell nobody any more."""
        self._stopped = True
        for work in list(self._telling.values()):
            work.cancel()

    def _failed(self, failure: Failure) -> None:
        if not self._stopped:
            self._log.failure("telling who owns the log failed", failure)

    async def _tell(self, url: str) -> None:
        try:
            await pause(self._clock, 0.0)
            while not await self._told(url):
                if self._stopped:
                    return
                await pause(self._clock, _EVERY_SECONDS)
        finally:
            del self._telling[url]
        self._left.remove(url)
        lines = "".join(f"{one}\n" for one in self._left).encode()
        await self._threads.run(write_durably, self._state_dir / FENCE_FILE, lines)

    async def _told(self, url: str) -> bool:
        try:
            work = Deferred.fromCoroutine(self._post(url, self._own().encoded()))
            status, body = await bounded(work, _ANSWER_SECONDS, self._clock)
            if status == 200:
                await self._heard(url, body)
        except Exception as error:
            self._log.debug("cannot fence {url} yet: {why}", url=url, why=explain(error))
            return False
        return status == 200 or status in NO_PRIMARY

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
    """The URLs of nodes that must still be told, each once; blocking."""
    try:
        return list(dict.fromkeys((state_dir / FENCE_FILE).read_text().split()))
    except FileNotFoundError:
        return []
