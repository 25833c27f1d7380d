"""The log, served to followers: a long poll for bounded pages, each with its own checkpoint.

A page is encoded once however many replicas ask for it. Status codes are those of
docs/protocol.md; a 404 is never one of them.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import orjson
from attrs import define, field
from sqlalchemy import Connection
from twisted.internet.defer import CancelledError

from cluster.errors import InvalidRequest, LogError
from cluster.log import changelog
from cluster.log.checkpoint import Checkpoint, LogSigner
from cluster.log.merkle import Frontier, leaf_hash
from cluster.protocol import NODE_HEADER, REPLICA_HEADER, TAIL_PAGE_BYTES, TAIL_PAGE_ENTRIES
from cluster.state import queries
from cluster.state.database import Database
from cluster.state.position import Position
from cluster.web.identity import Identity, client_address
from cluster.web.polls import Polls
from cluster.web.replies import Reply, json_reply
from cluster.web.request import NodeRequest
from cluster.web.status import LogIdentity
from cluster.web.tail import (
    COMPRESS_FROM_BYTES,
    NO_STORE,
    Asked,
    Key,
    OtherHistory,
    Page,
    Pages,
    asked,
    identity_reply,
    packed,
    size_of,
)
from primary.acks import Acks
from primary.fencing import Fencing
from primary.followers import Followers
from primary.streams import Streams


@define
class Feed:
    """Serves `/+log/tail`, `/+log/identity` and the newest checkpoint."""

    _database: Database
    _position: Position
    _signer: LogSigner
    _identity: Identity
    _followers: Followers
    _log: LogIdentity
    _secret: Callable[[], bytes]
    _fencing: Fencing
    _acks: Acks
    _polls: Polls
    _streams: Streams
    _pages: Pages = field(factory=Pages)
    _newest: tuple[Frontier, Sequence[bytes], Frontier] | None = None
    _newest_page: Page | None = None
    newest_snapshot: Callable[[], int | None] = lambda: None

    def committed(self, before: Frontier, entries: Sequence[bytes], after: Frontier) -> None:
        """Keep what was committed just now: followers that are in sync want exactly that."""
        small = sum(map(len, entries)) <= COMPRESS_FROM_BYTES
        self._newest = (before, entries, after) if small else None
        self._newest_page = None

    def checkpoint(self) -> bytes:
        """A signed note for the head, which is durable."""
        head = self._position.head
        return self._signer.sign(Checkpoint(self._signer.name, head.serial, head.root))

    def identity(self, request: NodeRequest) -> Reply:
        """Which log this is, with a proof that this node holds the cluster's secret."""
        return identity_reply(request, self._log, self._secret())

    async def epochs(self, request: NodeRequest) -> Reply:
        """How the epochs after the first began: what a follower believes of who signs."""
        self._identity.require_node(request)
        listed = [start.to_json() for start in await self._database.read(queries.starts)]
        return json_reply({"epochs": listed}, headers=NO_STORE)

    async def cosign(self, request: NodeRequest) -> Reply:
        """A replica has everything up to some serials durably (see `primary.acks`)."""
        node = self._identity.require_node(request)
        try:
            said = orjson.loads(request.content.read())
            position, files_position = int(said["position"]), int(said["files_position"])
            root = base64.b64decode(said["root"], validate=True)
        except (orjson.JSONDecodeError, KeyError, TypeError, ValueError):
            raise InvalidRequest("cosign takes position, root and files_position") from None
        if not 0 <= files_position <= position <= self._position.serial:
            raise OtherHistory(f"this log ends at {self._position.serial}")
        # Who still holds what a promotion left behind must not count for what took its place.
        if root != await self._root(position):
            self._acks.forget(node)
            raise OtherHistory(f"my root of {position} entries is not yours")
        self._identity.require_admitted(node)  # it may have been revoked meanwhile
        if position < self._acks.position(node):
            return Reply(204)  # overtaken by a poll: only that may say less than was said before
        report = request.header(REPLICA_HEADER)
        if report is not None:
            address = client_address(request)
            said_root = base64.b64encode(root).decode()
            self._followers.heard(node, position, report, address, said_root)
        self._acks.cosigned(node, position, files_position)
        self._streams.heard(node, position)
        return Reply(204)

    async def tail(self, request: NodeRequest) -> Reply | None:
        """A page of entries behind the follower's position, waited for if there is none yet; or
        a stream of them, which is written already.
        """
        try:
            if request.header(NODE_HEADER) is None:
                return await self._copied(request)
            return await self._followed(request)
        except changelog.Compacted as error:
            where = {"minimum": error.minimum, "snapshot": self.newest_snapshot()}
            return json_reply(where, 410, NO_STORE)

    async def _followed(self, request: NodeRequest) -> Reply | None:
        node = self._identity.require_node(request)
        try:
            return await self._tail(node, request)
        except OtherHistory as error:
            self._followers.refused(node, str(error))
            self._acks.forget(node)
            raise
        except CancelledError:
            if not self._polls.waits(node):
                self._followers.lost(node)
            raise

    async def _tail(self, node: str, request: NodeRequest) -> Reply | None:
        question = asked(request, self._log.log)
        start, root = question.start, question.root
        await self._fencing.followed(question.epoch, question.key, question.rival)
        self._fencing.require_asked()
        address = client_address(request)
        said = self._followers.heard(
            node, start, request.header(REPLICA_HEADER), address, base64.b64encode(root).decode()
        )
        if start > self._position.serial:
            raise OtherHistory(f"this log ends at {self._position.serial}, you are at {start}")
        page = None
        if start == self._position.serial and root == self._position.head.root:
            self._acks.cosigned(node, start, files_position(said, start))
            if not question.wait_seconds:
                return (await self._checked(question)).reply()
        else:
            page = await self._checked(question)
            self._acks.cosigned(node, start, files_position(said, start))
        self._fencing.require_owner()
        if self._streams.suits(node, question):
            await self._streams.send(node, request, question, self._checked, page)
            return None
        if page is None:
            await self._polls.wait(node, start + 1, question.wait_seconds)
            self._identity.require_admitted(node)  # it may have been revoked meanwhile
            page = await self._checked(question)
        return page.reply()

    async def _checked(self, question: Asked) -> Page:
        """The page behind a position, whose root must be right."""
        page = await self._page(question)
        if page.before != question.root:
            raise OtherHistory(f"my root of {question.start} entries is not yours")
        self._fencing.require_owner()
        return page

    async def evidence(self, request: NodeRequest) -> Reply:
        """A replica hands in a checkpoint that we have signed, of a log that is not ours.

        We sign only what is durable here: so we are an older copy of ourselves, or one of two.
        Raises InvalidRequest for what we have not signed.
        """
        self._identity.require_node(request)
        note = request.content.read()
        try:
            checkpoint = self._signer.key.open(note)
        except LogError as error:
            raise InvalidRequest(f"that is no evidence: {error}") from None
        if checkpoint.origin != self._signer.name:
            raise InvalidRequest("that is a checkpoint of another log")
        if not await self._is_ours(checkpoint):
            await self._fencing.disown(note)
        return json_reply({"fenced": self._fencing.fence is not None}, headers=NO_STORE)

    async def _is_ours(self, checkpoint: Checkpoint) -> bool:
        if checkpoint.size > self._position.serial:
            return False
        return await self._root(checkpoint.size) == checkpoint.root

    async def _root(self, size: int) -> bytes:
        head = self._position.head
        if size == head.serial:
            return head.root
        return (await self._database.read(lambda c: changelog.frontier(c, size))).root

    async def _copied(self, request: NodeRequest) -> Reply:
        """A page for an auditor or a backup, who is no replica: at once, and nobody's progress."""
        await self._identity.require_copier(request)
        question = asked(request, self._log.log)
        if question.start > self._position.serial:
            raise OtherHistory(f"this log ends at {self._position.serial}")
        return (await self._checked(question)).reply()

    async def note(self, request: NodeRequest, size: str) -> Reply:
        """A signed note for an earlier size of the log: for replicas that others follow."""
        self._identity.require_node(request)
        if size_of(size) > self._position.serial:
            raise InvalidRequest("the log is not that long")
        at = await self._database.read(lambda c: changelog.frontier(c, int(size)))
        return Reply(200, self._signed(at), "text/plain; charset=utf-8", NO_STORE)

    def stop(self) -> None:
        """Answer those who wait, and let nobody wait any more: the node is going down."""
        self._polls.stop()
        self._streams.stop()

    async def _page(self, question: Asked) -> Page:
        key = (question.start, self._position.serial, question.encoding)
        page = self._pages.known(key) or self._of_newest(question.start)
        return page or await self._pages.get(
            key, lambda: self._database.read(lambda c: self._encode(c, key))
        )

    def _of_newest(self, start: int) -> Page | None:
        if self._newest is None or self._newest[0].size != start:
            return None
        if self._newest_page is None:
            before, entries, after = self._newest
            note = self._signed(after)
            self._newest_page = packed(before.root, entries, note, None, after)
        return self._newest_page

    def _signed(self, after: Frontier) -> bytes:
        return self._signer.sign(Checkpoint(self._signer.name, after.size, after.root))

    def _encode(self, connection: Connection, key: Key) -> Page:
        start, until, encoding = key
        before = changelog.frontier(connection, start)
        entries = changelog.read_raw(connection, start, TAIL_PAGE_BYTES, TAIL_PAGE_ENTRIES, until)
        after = before.extended(leaf_hash(entry) for entry in entries)
        return packed(before.root, entries, self._signed(after), encoding, after)


def files_position(said: Mapping[str, Any], position: int) -> int:
    """Up to which serial a replica says to have all uploaded files; at most its position."""
    value = said.get("files_position")
    return min(value, position) if type(value) is int and value > 0 else 0
