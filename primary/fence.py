"""Why a primary takes no more writes: as it is ordered, kept in its folder, and told (pure).

A fence is of one of three kinds. *Superseded*: a later epoch has begun, or is about to.
*Split*: another node owns the very epoch of this primary. *Restored*: this primary's own key has
signed a log that is not its log, so it came back from an older backup, or runs twice.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from enum import StrEnum
from typing import Any, Final
from urllib.parse import urlsplit

import orjson
from attrs import evolve, frozen

from cluster.errors import InvalidRequest, LogError
from cluster.log.epochs import Start
from cluster.upstream.health import iso
from cluster.web.tail import MOST_EPOCH

_KEY_BYTES: Final = 32


class Why(StrEnum):
    """The kinds of fences; status shows these names."""

    SUPERSEDED = "superseded"
    SPLIT = "split"
    RESTORED = "restored"


_HINTS: Final = {
    Why.SUPERSEDED: "stop it, and make it a replica of the new primary by `pymirror demote`",
    Why.SPLIT: "choose one of the two owners, stop it and `pymirror promote` its folder once more; "
    "then stop the other and `pymirror demote` its folder",
    Why.RESTORED: "`pymirror promote` the replica that is furthest, then `pymirror demote` this "
    "one; or stop this one and `pymirror promote` its folder: it goes on in a new epoch, and "
    "replicas keep what they have beyond in files",
}
_BEGINNING: Final = (
    "start the node that is being promoted; if that was given up, stop this one and `pymirror "
    "promote` its folder"
)


@frozen
class Order:
    """Who owns the log in `epoch`: its URL and key (base64), as far as they are known.

    `start` proves it; without one, who says so must be a node. `begun` is False while an
    operator is still about to begin the epoch.
    """

    epoch: int
    url: str | None = None
    key: str | None = None
    start: Start | None = None
    begun: bool = True

    def encoded(self) -> bytes:
        """The body of `POST /+node/fence`, and of its answer."""
        return orjson.dumps(self.to_json())

    def to_json(self) -> dict[str, Any]:
        """As `POST /+node/fence` carries it."""
        start = None if self.start is None else self.start.to_json()
        return {
            "epoch": self.epoch, "url": self.url, "key": self.key, "start": start,
            "begun": self.begun,
        }  # fmt: skip


@frozen
class Fence:
    """What a primary was told of `epoch`, and by that stopped its writes, at `since` (seconds
    since 1970); `note` is the signed checkpoint that proves a restored one.
    """

    order: Order
    why: Why
    since: float | None = None
    note: str | None = None

    @property
    def epoch(self) -> int:
        """The epoch that is owned elsewhere, or not here alone."""
        return self.order.epoch

    @property
    def url(self) -> str | None:
        """Where to go for writes."""
        return self.order.url if self.why is Why.SUPERSEDED else None

    @property
    def serves(self) -> bool:
        """Whether replicas may still take from this primary what they lack."""
        return self.why is Why.SUPERSEDED and not self.order.begun

    @property
    def message(self) -> str:
        """Why there are no changes here."""
        where = self.order.url or "another node"
        if self.why is Why.SPLIT:
            return f"epoch {self.epoch} has two owners, this primary and {where}: no changes here"
        if self.why is Why.RESTORED:
            return (
                "this primary has signed a log that it does not have: it was restored from an "
                "older backup, or runs twice; it takes no changes"
            )
        if not self.order.begun:
            return f"epoch {self.epoch} is about to begin at {where}: no changes here"
        return f"this primary was replaced by {where} (epoch {self.epoch}): changes go there"

    def document(self) -> dict[str, Any]:
        """The `fenced` part of the status."""
        is_beginning = self.why is Why.SUPERSEDED and not self.order.begun
        return {
            "state": self.why.value,
            "since": iso(self.since),
            "epoch": self.epoch,
            "primary_url": self.order.url,
            "error": self.message,
            "hint": _BEGINNING if is_beginning else _HINTS[self.why],
        }

    def with_more(self, order: Order) -> Fence:
        """The same with what another order of the same epoch adds; unchanged if it contradicts."""
        mine = self.order
        if None not in (mine.key, order.key) and mine.key != order.key:
            return self
        # Who is about to be promoted may not know its URL; who owns the epoch does.
        url = order.url if order.key is not None or mine.url is None else None
        return evolve(self, order=Order(
            mine.epoch, url or mine.url, mine.key or order.key, mine.start or order.start,
            mine.begun or order.begun,
        ))  # fmt: skip

    def encoded(self) -> bytes:
        """As the file in the state folder has it."""
        more = {"why": self.why.value, "since": self.since, "note": self.note}
        return orjson.dumps({**self.order.to_json(), **more})


def decode_fence(data: bytes) -> Fence:
    """The reverse of `Fence.encoded`, also for what older versions wrote; raises InvalidRequest."""
    values = orjson.loads(data)
    return Fence(
        _order(values), Why(values.get("why", Why.SUPERSEDED)), values.get("since"),
        values.get("note"),
    )  # fmt: skip


def fence_order(body: bytes) -> Order:
    """The body of `POST /+node/fence`, or of its answer; no proof is checked.

    Raises InvalidRequest.
    """
    try:
        values = orjson.loads(body)
    except orjson.JSONDecodeError:
        values = None
    if not isinstance(values, dict):
        raise InvalidRequest('fence takes {"epoch": …, "url": …, "key": …, "start": …}')
    return _order(values)


def _order(values: Mapping[str, Any]) -> Order:
    epoch, url, key = values.get("epoch"), values.get("url"), values.get("key")
    if type(epoch) is not int or not 0 <= epoch <= MOST_EPOCH:
        raise InvalidRequest("epoch is not a number of an epoch")
    if url is not None and not _is_url(url):
        raise InvalidRequest("url is not an http URL")
    if key is not None and not is_key(key):
        raise InvalidRequest("key is not a public key in base64")
    start = None if values.get("start") is None else _start(values["start"])
    if start is not None and (start.epoch, start.key) != (epoch, key):
        raise InvalidRequest("start is that of another epoch or owner")
    return Order(epoch, url, key, start, values.get("begun") is not False)


def _start(values: Any) -> Start:
    try:
        return Start.from_json(values)
    except LogError as error:
        raise InvalidRequest(str(error)) from None


def is_key(text: object) -> bool:
    """Whether a text is the base64 of an Ed25519 public key."""
    try:
        return isinstance(text, str) and len(base64.b64decode(text, validate=True)) == _KEY_BYTES
    except (binascii.Error, ValueError):
        return False


def _is_url(url: object) -> bool:
    # It goes into a header, and to clients who ask there next.
    try:
        return (
            isinstance(url, str)
            and url.isascii()
            and url.isprintable()
            and urlsplit(url).scheme in ("http", "https")
        )
    except ValueError:
        return False
