"""What serving the log has in common on its owner and on replicas: questions and pages."""

from __future__ import annotations

import base64
import binascii
import gzip
from collections import OrderedDict
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Final

import zstandard
from attrs import define, field, frozen

from cluster.errors import InvalidRequest, PymirrorError
from cluster.log.merkle import Frontier
from cluster.protocol import (
    POLL_WAIT_SECONDS,
    TAIL_TYPE,
    TailPage,
    encode_tail,
    identity_proof,
)
from cluster.singleflight import SingleFlight
from cluster.web.replies import Reply, json_reply
from cluster.web.request import NodeRequest
from cluster.web.status import LogIdentity

COMPRESS_FROM_BYTES: Final = 2_048
MOST_EPOCH: Final = 2**53
"""One that is larger cannot be kept as JSON: a fence must be durable before it is believed."""
_PAGES_KEPT: Final = 4
NO_STORE: Final = {"Cache-Control": "no-store"}


class OtherHistory(PymirrorError):
    """The follower's (size, root) is not in this log: one of the two was restored or forked."""

    status = 409


class OtherLog(PymirrorError):
    """The follower follows another log than this one."""

    status = 412


@frozen
class Asked:
    """A follower's question: the entries behind `start`, where its root is `root` (32 bytes) and
    its last epoch `epoch`, whose owner's key is `key`; `rival` is the key of another owner of that
    epoch that it has met. `encoding` is one it takes, or None. With `streams` it takes more than
    one page in an answer.
    """

    start: int
    root: bytes
    epoch: int
    wait_seconds: float
    encoding: str | None
    key: str | None = None
    rival: str | None = None
    streams: bool = False


@frozen
class Page:
    """An encoded page, the root of the entries before it, and, if known, where it ends."""

    before: bytes
    body: bytes
    encoding: str | None
    after: Frontier | None = None

    def reply(self) -> Reply:
        """The answer with this page."""
        encoded = {} if self.encoding is None else {"Content-Encoding": self.encoding}
        return Reply(200, self.body, TAIL_TYPE, {**NO_STORE, **encoded})


Key = tuple[int, int, str | None]
"""Where a page begins, the head, its encoding."""


@define
class Pages:
    """The last pages, each encoded once however many followers ask for it."""

    _kept: OrderedDict[Key, Page] = field(factory=OrderedDict)
    _making: SingleFlight[Key, Page] = field(factory=SingleFlight)

    def known(self, key: Key) -> Page | None:
        """The page, if it is here."""
        return self._kept.get(key)

    async def get(self, key: Key, make: Callable[[], Coroutine[Any, Any, Page]]) -> Page:
        """The page, made by `make` unless it is here."""
        return self.known(key) or await self._making.run(key, lambda: self._make(key, make))

    async def _make(self, key: Key, make: Callable[[], Coroutine[Any, Any, Page]]) -> Page:
        page = self._kept[key] = await make()
        while len(self._kept) > _PAGES_KEPT:
            self._kept.popitem(last=False)
        return page


def packed(
    before: bytes, entries: Sequence[bytes], note: bytes, encoding: str | None,
    after: Frontier | None = None,
) -> Page:  # fmt: skip
    """Encode a page, compressed if that is asked for and worth it; blocking."""
    plain = encode_tail(TailPage(entries, note))
    if encoding is None or len(plain) < COMPRESS_FROM_BYTES:
        return Page(before, plain, None, after)
    body = zstandard.compress(plain, 3) if encoding == "zstd" else gzip.compress(plain, 6)
    return Page(before, body, encoding, after)


def asked(request: NodeRequest, log: str) -> Asked:
    """What a follower asks of the log with this uuid; raises OtherLog, InvalidRequest."""
    if argument(request, b"log") != log:
        raise OtherLog(f"this is log {log}")
    try:
        start = int(argument(request, b"from"))
        wait_seconds = float(argument(request, b"wait") or 0)
        root = base64.urlsafe_b64decode(argument(request, b"root"))
        epoch = int(argument(request, b"epoch") or 0)
    except (ValueError, binascii.Error):
        raise InvalidRequest("tail needs from=<size>, root=<base64url> and wait=<s>") from None
    if start < 0 or not 0 <= wait_seconds <= 3_600 or not 0 <= epoch <= MOST_EPOCH:
        raise InvalidRequest("from, wait or epoch is out of range")
    accepted = request.header("Accept-Encoding") or ""
    encoding = next((name for name in ("zstd", "gzip") if name in accepted), None)
    key, rival = argument(request, b"key") or None, argument(request, b"rival") or None
    wait_seconds = min(wait_seconds, POLL_WAIT_SECONDS)
    streams = argument(request, b"stream") == "1"
    return Asked(start, root, epoch, wait_seconds, encoding, key, rival, streams)


def identity_reply(request: NodeRequest, log: LogIdentity, secret: bytes) -> Reply:
    """Which log this is, with a proof that this node holds the cluster's secret."""
    proof = identity_proof(secret, nonce_of(request), log.log, log.key)
    return json_reply({"log": log.log, "key": log.key, "proof": proof}, headers=NO_STORE)


def nonce_of(request: NodeRequest) -> str:
    """The nonce of a question for the log's identity; raises InvalidRequest."""
    nonce = argument(request, b"nonce")
    if not 16 <= len(nonce) <= 128:
        raise InvalidRequest("identity needs a nonce of 16 to 128 characters")
    return nonce


def argument(request: NodeRequest, name: bytes) -> str:
    """A query argument's first value, or an empty text."""
    values: list[bytes] = request.args.get(name, [b""])
    return values[0].decode("ascii", "replace")


def size_of(text: str) -> int:
    """A size, of a log or in bytes, out of a URL; raises InvalidRequest."""
    if not (text.isascii() and text.isdecimal() and len(text) < 19):
        raise InvalidRequest("a size is a number")
    return int(text)
