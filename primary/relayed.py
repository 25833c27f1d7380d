"""What replicas behind replicas say of themselves, as others pass it on (`cluster.statements`).

Each statement is verified by the key of the node that made it, and counts for the map and for
acknowledgement as a poll does: its root must be in this log.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping
from typing import Final

from attrs import define, field
from sqlalchemy import Connection
from twisted.logger import Logger

from cluster.errors import AuthenticationRequired
from cluster.log import changelog
from cluster.state.database import Database
from cluster.state.position import Position
from cluster.statements import Statement, decode
from cluster.web.identity import Identity
from cluster.web.polls import Polls
from cluster.web.replies import Reply
from cluster.web.request import NodeRequest
from primary.acks import Acks
from primary.feed import files_position
from primary.fencing import Fencing
from primary.followers import Followers

_MOST_NODES: Final = 1_000


@define
class Relayed:
    """Takes statements at `POST /+log/reports`."""

    _log = Logger()

    _identity: Identity
    _database: Database
    _position: Position
    _followers: Followers
    _acks: Acks
    _fencing: Fencing
    _polls: Polls
    _newest: dict[str, float] = field(factory=dict)
    _refused: set[str] = field(factory=set)

    async def take(self, request: NodeRequest) -> Reply:
        """204; what does not hold is left out. Raises InvalidRequest, AuthenticationRequired."""
        sender = self._identity.require_node(request)
        self._fencing.require_owner()
        statements, lost = decode(request.content.read())
        roots = await self._roots({one.position for one in statements})
        for one in statements:
            if self._is_good(one, sender):
                self._apply(one, roots)
        for node in lost:
            if self._followers.via(node)[-1:] == (sender,):
                self._followers.lost(node)
        return Reply(204)

    def _is_good(self, one: Statement, sender: str) -> bool:
        try:
            one.require(sender, self._identity.signer)
        except AuthenticationRequired as error:
            # Once: it comes every few seconds, and somebody has to set a clock or a key.
            if one.node not in self._refused and len(self._refused) < _MOST_NODES:
                self._refused.add(one.node)
                self._log.warn("what {node} says through another node does not count: {error}",
                               node=one.node, error=str(error))  # fmt: skip
            return False
        self._refused.discard(one.node)
        return bool(one.via) and not self._polls.waits(one.node) and self._is_newer(one)

    def _is_newer(self, one: Statement) -> bool:
        # Who passes statements on could repeat an old one, or two of them took different ways.
        if one.at < self._newest.get(one.node, one.at):
            return False
        self._newest.pop(one.node, None)
        self._newest[one.node] = one.at
        if len(self._newest) > _MOST_NODES:
            del self._newest[next(iter(self._newest))]
        return True

    def _apply(self, one: Statement, roots: Mapping[int, str]) -> None:
        said = self._followers.heard(one.node, one.position, one.report, "", one.root, one.via)
        if roots.get(one.position) == one.root:
            self._acks.cosigned(one.node, one.position, files_position(said, one.position))
        else:
            why = f"what it holds up to {one.position} is not in my log, which ends at {max(roots)}"
            self._followers.refused(one.node, why)
            self._acks.forget(one.node)

    async def _roots(self, sizes: Iterable[int]) -> Mapping[int, str]:
        head = self._position.head
        wanted = [size for size in sizes if size < head.serial]
        found = await self._database.read(lambda c: _roots_of(c, wanted)) if wanted else {}
        return {**found, head.serial: base64.b64encode(head.root).decode()}


def _roots_of(connection: Connection, sizes: Iterable[int]) -> dict[int, str]:
    return {
        size: base64.b64encode(changelog.frontier(connection, size).root).decode() for size in sizes
    }
