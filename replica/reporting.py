"""Tells whom this replica follows about itself and those behind it, when that is not the primary.

A replica that polls the primary needs no statement of its own: its polls say it all. Statements
go up at once when something changes, so that a write can be acknowledged by replicas that follow
replicas; each level adds one request. One request at a time, with the latest of each node.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

from attrs import define, field
from twisted.internet.defer import Deferred
from twisted.logger import Logger

from cluster.clock import Clock, Delayed
from cluster.errors import AuthenticationRequired, LogError, LoopDetected
from cluster.log.merkle import Frontier
from cluster.protocol import REPORTS_PATH
from cluster.statements import MOST_AT_ONCE, Statement, Verify, decode, encode, make
from cluster.web.replies import Reply
from cluster.web.request import NodeRequest
from replica.following import Following, State, Unreachable
from replica.primary_client import PrimaryClient

REPORT_SECONDS: Final = 20.0
"""So often a replica behind a replica says how it is, also when nothing has changed."""
_LOOK_SECONDS = 5.0
_RETRY_SECONDS = 1.0
# What could not be passed on by then, its node has said anew.
_KEPT_SECONDS = 60.0
_MOST_NODES = 1_000
# Nobody who passes statements on is there to be asked.
_ALONE = frozenset(
    {State.PRIMARY_UNREACHABLE, State.NOT_ADMITTED, State.NOT_PRIMARY, State.OTHER_LOG, State.LOOP}
)


@define
class Own:
    """This node: how its files and its following do, and the report that polls carry."""

    uuid: str
    files_position: Callable[[], int]
    following: Callable[[], Following]
    report: Callable[[Following], Mapping[str, Any]]
    now: Callable[[], float]
    sign: Callable[[str, str], str]

    def facts(self) -> tuple[object, ...]:
        """What others wait to hear of; everything else can wait for the next time."""
        following = self.following()
        return self.files_position(), following.state, following.caught_up_once

    def statement(self, at: Frontier) -> Statement:
        """What this node, which has the log up to `at` durably, says of itself now."""
        report = self.report(self.following())
        return make(self.uuid, self.now(), at.size, at.root, report, self.sign)


@define(eq=False)
class Reporter:
    """Sends this node's statement, if it is behind a replica, and those of nodes behind it."""

    _log = Logger()

    _client: PrimaryClient
    _clock: Clock
    _own: Own
    at: Frontier | None = None
    """Behind what this node polled last; it is durable."""
    _behind: dict[str, tuple[Statement, float]] = field(factory=dict)
    _lost: set[str] = field(factory=set)
    _through: dict[str, str] = field(factory=dict)
    _told: tuple[object, ...] = ()
    _told_at: float = float("-inf")
    _busy: bool = False
    _stopped: bool = False
    _timer: Delayed | None = None

    def start(self) -> None:
        """Begin to look at times whether something is to be told."""
        self._look_in(_LOOK_SECONDS)

    def stop(self) -> None:
        """Tell no more."""
        self._stopped = True
        if self._timer is not None and self._timer.active():
            self._timer.cancel()

    def polls(self, at: Frontier) -> None:
        """This node is about to poll behind `at`, which is durable; returns at once."""
        self.at = at
        self.tell()

    def tell(self) -> None:
        """Something has changed; returns at once."""
        if not self._busy and not self._stopped:
            self._busy = True
            # In the next turn: who calls us may be in the middle of its change.
            self._clock.callLater(0, self._begin)

    def take(self, request: NodeRequest, sender: str, verify: Verify) -> Reply:
        """The answer to `POST /+log/reports` by the node `sender`; raises InvalidRequest.

        What somebody has not said of itself, or what comes round, goes no further.
        """
        statements, lost = decode(request.content.read())
        for one in statements:
            try:
                one.require(sender, verify)
                self._keep(one.passed(self._own.uuid), sender)
            except (AuthenticationRequired, LoopDetected) as error:
                self._log.warn("not passed on: {error}", error=str(error))
        # Only from where its statements come: so this goes round no ring either.
        self._lost.update(node for node in lost if self._through.get(node) == sender)
        self.tell()
        return Reply(204)

    def lost(self, node: str) -> None:
        """The connection of a node's poll here broke."""
        self._lost.add(node)
        self.tell()

    def _keep(self, one: Statement, sender: str) -> None:
        # The newer one of a node takes the place of the older.
        if one.node not in self._through and len(self._through) >= _MOST_NODES:
            gone = next(iter(self._through))
            del self._through[gone]
            self._behind.pop(gone, None)
        self._through.pop(one.node, None)
        self._through[one.node] = sender
        self._behind[one.node] = (one, self._clock.seconds())
        self._lost.discard(one.node)

    def _begin(self) -> None:
        Deferred.fromCoroutine(self._run()).addErrback(
            lambda failure: self._log.failure("passing on statements failed", failure)
        )

    async def _run(self) -> None:
        wait_seconds = _LOOK_SECONDS
        try:
            while not self._stopped and self._has_news():
                await self._send()
        except (Unreachable, LogError) as error:
            wait_seconds = _RETRY_SECONDS if isinstance(error, Unreachable) else _LOOK_SECONDS
            self._log.debug("statements did not arrive: {error}", error=str(error))
        finally:
            self._busy = False
            self._look_in(wait_seconds)

    def _has_news(self) -> bool:
        if self._own.following().state in _ALONE:
            return False
        return bool(self._behind or self._lost) or self._is_due()

    def _is_due(self) -> bool:
        if self.at is None or not self._client.chain:
            return False
        is_late = self._clock.seconds() - self._told_at >= REPORT_SECONDS
        return is_late or self._told != self._facts()

    def _facts(self) -> tuple[object, ...]:
        return self._client.chain, self.at, *self._own.facts()

    async def _send(self) -> None:
        own = [self._own.statement(self.at)] if self.at and self._is_due() else []
        facts, at = self._facts(), self._clock.seconds()
        nodes = list(self._behind)[: MOST_AT_ONCE - len(own)]
        batch = [self._behind.pop(node) for node in nodes]
        lost, self._lost = self._lost, set()
        try:
            await self._post([*own, *(one for one, _ in batch)], lost)
        except BaseException:
            self._put_back(batch, lost)
            raise
        if own:
            self._told, self._told_at = facts, at

    def _put_back(self, batch: Sequence[tuple[Statement, float]], lost: Iterable[str]) -> None:
        since = self._clock.seconds() - _KEPT_SECONDS
        for one, at in batch:
            if at > since:
                self._behind.setdefault(one.node, (one, at))
        self._lost.update(node for node in lost if node not in self._behind)

    async def _post(self, statements: Sequence[Statement], lost: Iterable[str]) -> None:
        headers = self._client.headers("POST", REPORTS_PATH)
        answer = await self._client.ask("POST", REPORTS_PATH, headers, encode(statements, lost))
        if answer.status != 204:
            raise LogError(f"statements are answered {answer.status}")

    def _look_in(self, seconds: float) -> None:
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        if not self._stopped:
            self._timer = self._clock.callLater(seconds, self.tell)
