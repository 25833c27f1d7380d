"""The log, served by a replica to replicas that follow it: the same bytes, the owner's notes.

A replica cannot sign. A page that it serves ends where it holds a signed checkpoint of the
owner; where it holds none, it asks whom it follows for one. What only the owner knows (who it
is, snapshots) is asked along the chain, and the list of nodes that a question has passed keeps
it from going round.
"""

from __future__ import annotations

from collections.abc import Callable
from hashlib import sha256
from typing import Any, Final

from attrs import define, evolve, field
from klein import Klein
from sqlalchemy import Connection
from twisted.internet.defer import CancelledError

from cluster.durable import SecretBlobs
from cluster.errors import Gone, InvalidRequest, LoopDetected, NotFound, Unavailable
from cluster.log import changelog, notes
from cluster.log.snapshot import CHUNK_LIMIT
from cluster.model import SHA256
from cluster.protocol import (
    COSIGN_PATH,
    EPOCHS_PATH,
    IDENTITY_PATH,
    NODES_PATH,
    NOTE_PATH,
    REPORTS_PATH,
    SECRET_PATH,
    SERIAL_HEADER,
    SNAPSHOT_PATH,
    SNAPSHOTS_PATH,
    TAIL_PAGE_BYTES,
    TAIL_PAGE_ENTRIES,
    TAIL_PAGE_LIMIT,
    TAIL_PATH,
    VIA_HEADER,
)
from cluster.state import queries
from cluster.state.database import Database
from cluster.state.position import Position
from cluster.threads import Runner
from cluster.upstream.client import first
from cluster.web.identity import Identity
from cluster.web.polls import Polls
from cluster.web.replies import Reply, json_reply
from cluster.web.request import NodeRequest
from cluster.web.routes import answering
from cluster.web.status import LogIdentity
from cluster.web.tail import (
    NO_STORE,
    Asked,
    Key,
    OtherHistory,
    Page,
    Pages,
    asked,
    identity_reply,
    nonce_of,
    packed,
    size_of,
)
from replica.following import Following, State, Unreachable
from replica.primary_client import PrimaryClient
from replica.reporting import Reporter
from replica.via import via_through

_QUESTION_SECONDS: Final = 10.0
_SNAPSHOT_SECONDS: Final = 110.0
_NOTE_BYTES: Final = 16_384


class NotYet(Unavailable):
    """This replica may have what was asked for in a moment (it is behind who asks)."""

    retry_after_seconds = 1


@define
class Relay:
    """Serves the log as far as it is here; `own` is this node's uuid."""

    _client: PrimaryClient
    _database: Database
    _position: Position
    _identity: Identity
    _blobs: SecretBlobs
    _heavy: Runner
    _polls: Polls
    _own: str
    _log: Callable[[], LogIdentity | None]
    _following: Callable[[], Following]
    _reporter: Reporter
    _pages: Pages = field(factory=Pages)

    async def identity(self, request: NodeRequest) -> Reply:
        """Which log this is: pinned here, or said (and proven) by whom this replica follows."""
        nonce_of(request)
        via = via_through(request, self._own)
        log = self._log()
        if log is not None:
            return identity_reply(request, log, self._client.secret)
        return await self._passed_on(request, {VIA_HEADER: via}, _QUESTION_SECONDS)

    async def epochs(self, request: NodeRequest) -> Reply:
        """How the epochs after the first began, as far as this replica has followed."""
        self._identity.require_node(request)
        listed = [start.to_json() for start in await self._database.read(queries.starts)]
        return json_reply({"epochs": listed}, headers=NO_STORE)

    async def owned(self, request: NodeRequest) -> Reply:
        """Snapshots and the list of nodes are the owner's: asked for along the chain."""
        self._identity.require_node(request)
        headers = {**self._client.headers(), VIA_HEADER: via_through(request, self._own)}
        try:
            return await self._passed_on(request, headers, _SNAPSHOT_SECONDS)
        except Unreachable:
            if request.path != SNAPSHOTS_PATH.encode():
                raise
            # Without the owner its snapshots cannot be had; the log from its start can.
            return json_reply({"snapshots": []}, headers=NO_STORE)

    async def cosign(self, request: NodeRequest) -> Reply:
        """Heard and not passed on: what is to count, a node says in a statement of its own."""
        self._identity.require_node(request)
        return Reply(204)

    async def reports(self, request: NodeRequest) -> Reply:
        """What nodes behind this one say of themselves: passed on (`replica.reporting`)."""
        sender = self._identity.require_node(request)
        return self._reporter.take(request, sender, self._identity.signer)

    async def tail(self, request: NodeRequest) -> Reply:
        """A page of entries behind the follower's position, waited for if there is none yet.

        Raises LoopDetected, NotYet, OtherHistory, Unavailable.
        """
        node = self._identity.require_node(request)
        self._check_chain(node)
        log = self._log()
        if log is None:
            raise NotYet("this replica has not met its primary yet")
        question = asked(request, log.log)
        if question.start >= self._position.serial and question.wait_seconds:
            await self._wait(node, question)
            self._identity.require_admitted(node)  # it may have been revoked meanwhile
            self._check_chain(node)
        if question.start > self._position.serial:
            raise NotYet(f"this replica is at {self._position.serial}, you are ahead of it")
        page = await self._page(question)
        if page.before != question.root:
            raise OtherHistory(f"my root of {question.start} entries is not yours")
        reply = page.reply()
        head = max(self._position.serial, self._following().primary_serial)
        chain = ",".join((self._own, *self._client.chain))
        headers = {**reply.headers, SERIAL_HEADER: str(head), VIA_HEADER: chain}
        return evolve(reply, headers=headers)

    async def _wait(self, node: str, question: Asked) -> None:
        try:
            await self._polls.wait(node, question.start + 1, question.wait_seconds)
        except CancelledError:
            if not self._polls.waits(node):
                self._reporter.lost(node)
            raise

    def _check_chain(self, node: str) -> None:
        if node == self._own or node in self._client.chain:
            raise LoopDetected(
                f"node {node} would follow itself through {self._own}: point one of them at the "
                "primary"
            )
        if self._following().state is State.LOOP:
            raise LoopDetected(
                f"replica {self._own} is in a ring of replicas that follow each other: point one "
                "of them at the primary"
            )

    async def note(self, request: NodeRequest, size: str) -> Reply:
        """A signed note for an earlier size: from here, or from whom this replica follows."""
        self._identity.require_node(request)
        if size_of(size) > self._position.serial:
            raise InvalidRequest("the log is not that long")
        note = await self._database.read(lambda c: notes.at(c, int(size)))
        if note is None:
            note = await self._fetched(int(size), via_through(request, self._own))
        return Reply(200, note, "text/plain; charset=utf-8", NO_STORE)

    async def secret(self, request: NodeRequest, name: str) -> Reply:
        """A node-only blob, from here or from whom this replica follows; raises Gone."""
        self._identity.require_node(request)
        if not SHA256.fullmatch(name):
            raise NotFound("there is no such blob")
        try:
            data = await self._heavy.run(self._blobs.get, name)
        except FileNotFoundError:
            headers = {**self._client.headers(), VIA_HEADER: via_through(request, self._own)}
            answer = await self._client.ask("GET", f"{SECRET_PATH}/{name}", headers)
            data = answer.body if answer.status == 200 else b""
            if answer.status != 410 and sha256(data).hexdigest() != name:
                raise Unavailable("whom this replica follows has no good answer") from None
        if not data:
            raise Gone("there is no such blob (any more)")
        return Reply(200, data, "application/octet-stream", NO_STORE)

    async def _passed_on(
        self, request: NodeRequest, headers: dict[str, str], seconds: float
    ) -> Reply:
        path = request.uri.decode("ascii")
        answer = await self._client.ask(
            "GET", path, headers, limit_bytes=CHUNK_LIMIT, seconds=seconds
        )
        content_type = first(answer.response, "Content-Type") or "application/octet-stream"
        return Reply(answer.status, answer.body, content_type, NO_STORE)

    async def _page(self, question: Asked) -> Page:
        key = (question.start, self._position.serial, question.encoding)
        return await self._pages.get(key, lambda: self._make(key))

    async def _make(self, key: Key) -> Page:
        start, until, encoding = key
        before, entries, note = await self._database.read(lambda c: _read(c, start, until))
        if note is None:
            note = await self._fetched(start + len(entries), self._own)
        return await self._heavy.run(packed, before, entries, note, encoding)

    async def _fetched(self, size: int, via: str) -> bytes:
        headers = {**self._client.headers(), VIA_HEADER: via}
        answer = await self._client.ask(
            "GET", f"{NOTE_PATH}/{size}", headers, limit_bytes=_NOTE_BYTES
        )
        if answer.status != 200:
            raise Unavailable(f"no signed checkpoint for {size} entries can be had now")
        return answer.body


def _read(
    connection: Connection, start: int, until: int
) -> tuple[bytes, list[bytes], bytes | None]:
    """The root before a page, its entries, and the note for its end, if one is here."""
    before = changelog.frontier(connection, start).root
    page = changelog.read_raw(connection, start, TAIL_PAGE_BYTES, TAIL_PAGE_ENTRIES, until)
    natural = start + len(page)
    if natural == start:
        return before, [], notes.at(connection, start)
    end = notes.best_end(connection, start, natural, until)
    if end is None or end == natural:
        return before, page, None if end is None else notes.at(connection, end)
    if end < natural:
        return before, page[: end - start], notes.at(connection, end)
    longer = changelog.read_raw(connection, start, TAIL_PAGE_LIMIT * 9 // 10, end - start, end)
    if start + len(longer) < end:
        return before, page, None
    return before, longer, notes.at(connection, end)


def add_log_routes(app: Klein) -> None:
    """Register them; the relay is `relay` of the application."""
    for path, methods, handler in (
        (IDENTITY_PATH, ["GET"], _identity),
        (EPOCHS_PATH, ["GET"], _epochs),
        (TAIL_PATH, ["GET"], _tail),
        (COSIGN_PATH, ["POST"], _cosign),
        (REPORTS_PATH, ["POST"], _reports),
        (NOTE_PATH + "/<size>", ["GET"], _note),
        (SECRET_PATH + "/<name>", ["GET"], _secret),
        (NODES_PATH, ["GET"], _owned),
        (SNAPSHOTS_PATH, ["GET"], _owned),
        (SNAPSHOT_PATH + "/<serial>/<part>", ["GET"], _owned),
    ):
        app.route(path, methods=methods, strict_slashes=True)(answering(handler))


async def _identity(web: Any, request: NodeRequest) -> Reply:
    relay: Relay = web.relay
    return await relay.identity(request)


async def _epochs(web: Any, request: NodeRequest) -> Reply:
    relay: Relay = web.relay
    return await relay.epochs(request)


async def _tail(web: Any, request: NodeRequest) -> Reply:
    relay: Relay = web.relay
    return await relay.tail(request)


async def _cosign(web: Any, request: NodeRequest) -> Reply:
    relay: Relay = web.relay
    return await relay.cosign(request)


async def _reports(web: Any, request: NodeRequest) -> Reply:
    relay: Relay = web.relay
    return await relay.reports(request)


async def _note(web: Any, request: NodeRequest, size: str) -> Reply:
    relay: Relay = web.relay
    return await relay.note(request, size)


async def _secret(web: Any, request: NodeRequest, name: str) -> Reply:
    relay: Relay = web.relay
    return await relay.secret(request, name)


async def _owned(web: Any, request: NodeRequest, **names: str) -> Reply:
    relay: Relay = web.relay
    return await relay.owned(request)
