"""Followers that wait for news: so many of each and in all, and who was revoked not at all."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from attrs import define, field
from twisted.internet.defer import CancelledError, Deferred

from cluster.errors import TooManyRequests
from cluster.state.position import Position

MOST_PER_NODE: Final = 2
MOST: Final = 2_000
_RETRY_SECONDS: Final = 5


@define(eq=False)
class Polls:
    """The long polls that wait here, by the uuid of their node."""

    _position: Position
    most: int = MOST
    _waiting: dict[str, list[Deferred[bool]]] = field(factory=dict)
    _ended: set[Deferred[bool]] = field(factory=set)
    _stopped: bool = False

    @property
    def count(self) -> int:
        """How many wait."""
        return sum(map(len, self._waiting.values()))

    def waits(self, node: str) -> bool:
        """Whether a poll of this node waits."""
        return bool(self._waiting.get(node))

    async def wait(self, node: str, serial: int, seconds: float) -> bool:
        """Wait until `serial` is applied here, the time is over, or the poll is ended: the oldest
        of a node is when it sends a third. False says that it was ended.

        Raises TooManyRequests when too many wait already.
        """
        if self._stopped:
            return False
        for older in self._waiting.get(node, [])[: -(MOST_PER_NODE - 1)]:
            self._end(older)
        self.require_room()
        poll = Deferred.fromCoroutine(self._position.reached(serial, seconds))
        self._waiting.setdefault(node, []).append(poll)
        try:
            await poll
        except CancelledError:
            if poll not in self._ended:  # the follower itself is gone
                raise
            return False
        finally:
            self._ended.discard(poll)
            self._forget(node, poll)
        return not self._stopped

    def require_room(self) -> None:
        """Raise TooManyRequests when too many wait already."""
        if self.count >= self.most:
            raise TooManyRequests("too many followers wait here; try again", _RETRY_SECONDS)

    def end(self, unwanted: Callable[[str], bool]) -> None:
        """Answer the polls of these nodes now."""
        for node, polls in list(self._waiting.items()):
            if unwanted(node):
                for poll in list(polls):
                    self._end(poll)

    def stop(self) -> None:
        """Answer all, and let nobody wait any more: the node is going down."""
        self._stopped = True
        self._position.wake_all()

    def _end(self, poll: Deferred[bool]) -> None:
        self._ended.add(poll)
        poll.cancel()

    def _forget(self, node: str, poll: Deferred[bool]) -> None:
        polls = self._waiting[node]
        polls.remove(poll)
        if not polls:
            del self._waiting[node]
