"""The log, served to followers: a long poll for bounded pages, each with its own checkpoint.

A page is encoded once however many replicas ask for it. Status codes are those of
docs/protocol.md; a 404 is never one of them.
"""

from __future__ import annotations

import base64
import binascii
import gzip
from collections import OrderedDict
from collections.abc import Callable, Sequence

import zstandard
from attrs import define, field, frozen
from sqlalchemy import Connection

from cluster.errors import InvalidRequest, PymirrorError
from cluster.log import changelog
from cluster.log.checkpoint import Checkpoint, LogSigner
from cluster.log.merkle import Frontier, leaf_hash
from cluster.protocol import (
    POLL_WAIT_SECONDS,
    REPLICA_HEADER,
    TAIL_PAGE_BYTES,
    TAIL_PAGE_ENTRIES,
    TAIL_TYPE,
    TailPage,
    encode_tail,
    identity_proof,
)
from cluster.singleflight import SingleFlight
from cluster.state.database import Database
from cluster.state.position import Position
from cluster.web.identity import Identity, client_address
from cluster.web.replies import Reply, json_reply
from cluster.web.request import NodeRequest
from primary.followers import Followers

_COMPRESS_FROM_BYTES = 2_048
_PAGES_KEPT = 4


class OtherHistory(PymirrorError):
    """The follower's (size, root) is not in this log: one of the two was restored or forked."""

    status = 409


class OtherLog(PymirrorError):
    """The follower follows another log than this one."""

    status = 412


@frozen
class _Page:
    """An encoded page, and the root of the entries before it."""

    before: bytes
    body: bytes
    encoding: str | None


Key = tuple[int, int, str | None]


@define
class Feed:
    """Serves `/+log/tail`, `/+log/identity` and the newest checkpoint."""

    _database: Database
    _position: Position
    _signer: LogSigner
    _identity: Identity
    _followers: Followers
    _log_id: str
    _key: str
    _secret: Callable[[], bytes]
    _pages: OrderedDict[Key, _Page] = field(factory=OrderedDict)
    _encoding: SingleFlight[Key, _Page] = field(factory=SingleFlight)
    _newest: tuple[Frontier, Sequence[bytes], Frontier] | None = None
    _stopping: bool = False

    def committed(self, before: Frontier, entries: Sequence[bytes], after: Frontier) -> None:
        """Keep what was committed just now: followers that are in sync want exactly that."""
        small = sum(map(len, entries)) <= _COMPRESS_FROM_BYTES
        self._newest = (before, entries, after) if small else None

    def checkpoint(self) -> bytes:
        """A signed note for the head, which is durable."""
        head = self._position.head
        return self._signer.sign(Checkpoint(self._signer.name, head.serial, head.root))

    def identity(self, request: NodeRequest) -> Reply:
        """Which log this is, with a proof that this node holds the cluster's secret."""
        nonce = argument(request, b"nonce")
        if not 16 <= len(nonce) <= 128:
            raise InvalidRequest("identity needs a nonce of 16 to 128 characters")
        proof = identity_proof(self._secret(), nonce, self._log_id, self._key)
        document = {"log": self._log_id, "key": self._key, "proof": proof}
        return json_reply(document, headers={"Cache-Control": "no-store"})

    async def tail(self, request: NodeRequest) -> Reply:
        """A page of entries behind the follower's position, waited for if there is none yet."""
        node = self._identity.require_node(request)
        start, root, wait_seconds = self._asked(request)
        address = client_address(request)
        self._followers.heard(node, start, request.header(REPLICA_HEADER), address)
        if start > self._position.serial:
            raise OtherHistory(f"this log ends at {self._position.serial}, you are at {start}")
        if start == self._position.serial and wait_seconds and not self._stopping:
            await self._position.reached(start + 1, wait_seconds)
        page = await self._page(start, _encoding(request.header("Accept-Encoding") or ""))
        if page.before != root:
            raise OtherHistory(f"my root of {start} entries is not yours")
        headers = {"Cache-Control": "no-store"}
        if page.encoding is not None:
            headers["Content-Encoding"] = page.encoding
        return Reply(200, page.body, TAIL_TYPE, headers)

    def stop(self) -> None:
        """Answer those who wait, and let nobody wait any more: the node is going down."""
        self._stopping = True
        self._position.wake_all()

    def _asked(self, request: NodeRequest) -> tuple[int, bytes, float]:
        def value(name: bytes) -> str:
            return argument(request, name)

        if value(b"log") != self._log_id:
            raise OtherLog(f"this is log {self._log_id}")
        try:
            start, wait_seconds = int(value(b"from")), float(value(b"wait") or 0)
            root = base64.urlsafe_b64decode(value(b"root"))
        except (ValueError, binascii.Error):
            raise InvalidRequest("tail needs from=<size>, root=<base64url> and wait=<s>") from None
        if start < 0 or not 0 <= wait_seconds <= 3_600:
            raise InvalidRequest("from or wait is out of range")
        return start, root, min(wait_seconds, POLL_WAIT_SECONDS)

    async def _page(self, start: int, encoding: str | None) -> _Page:
        key = (start, self._position.serial, encoding)
        page = self._pages.get(key)
        if page is None:
            page = self._of_newest(start)
        if page is None:
            page = await self._encoding.run(key, lambda: self._make(key))
        return page

    def _of_newest(self, start: int) -> _Page | None:
        if self._newest is None or self._newest[0].size != start:
            return None
        before, entries, after = self._newest
        return _Page(before.root, self._encoded(entries, after), None)

    def _encoded(self, entries: Sequence[bytes], after: Frontier) -> bytes:
        note = self._signer.sign(Checkpoint(self._signer.name, after.size, after.root))
        return encode_tail(TailPage(entries, note))

    async def _make(self, key: Key) -> _Page:
        page = await self._database.read(lambda c: self._encode(c, *key))
        self._pages[key] = page
        while len(self._pages) > _PAGES_KEPT:
            self._pages.popitem(last=False)
        return page

    def _encode(
        self, connection: Connection, start: int, until: int, encoding: str | None
    ) -> _Page:
        before = changelog.frontier(connection, start)
        entries = changelog.read_raw(connection, start, TAIL_PAGE_BYTES, TAIL_PAGE_ENTRIES, until)
        after = before.extended(leaf_hash(entry) for entry in entries)
        plain = self._encoded(entries, after)
        if encoding is None or len(plain) < _COMPRESS_FROM_BYTES:
            return _Page(before.root, plain, None)
        packed = zstandard.compress(plain, 3) if encoding == "zstd" else gzip.compress(plain, 6)
        return _Page(before.root, packed, encoding)


def argument(request: NodeRequest, name: bytes) -> str:
    """A query argument's first value, or an empty text."""
    values: list[bytes] = request.args.get(name, [b""])
    return values[0].decode("ascii", "replace")


def _encoding(accepted: str) -> str | None:
    return next((name for name in ("zstd", "gzip") if name in accepted), None)
