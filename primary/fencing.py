"""A primary that has been replaced takes no more writes, from the moment it learns of it.

It learns from the new primary, from `pymirror promote`, or from a replica that follows a later
epoch. That is durable: a restart does not bring it back. `pymirror demote` makes a replica of it.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import orjson
from attrs import define, frozen
from twisted.logger import Logger

from cluster.durable import write_durably
from cluster.errors import InvalidRequest, PymirrorError, Unavailable
from cluster.promotion import FENCED_FILE
from cluster.threads import Runner
from cluster.web.tail import MOST_EPOCH


class Superseded(Unavailable):
    """A write to a primary that owns the log no more (RFC 9110 §15.6.4)."""

    def __init__(self, message: str, primary_url: str | None) -> None:
        super().__init__(message)
        self.primary_url = primary_url


class NotOwner(PymirrorError):
    """A question that only the owner of the log answers (RFC 9110 §15.5.20)."""

    status = 421

    def __init__(self, message: str, primary_url: str | None) -> None:
        super().__init__(message)
        self.primary_url = primary_url


@frozen
class Fence:
    """The epoch that replaced a primary's own, and the URL of its owner, if known."""

    epoch: int
    url: str | None


def read_fence(state_dir: Path) -> Fence | None:
    """The fence of a state folder, or None; blocking."""
    try:
        values = orjson.loads((state_dir / FENCED_FILE).read_bytes())
    except FileNotFoundError:
        return None
    return Fence(values["epoch"], values["url"])


def fence_order(body: bytes) -> tuple[int, str | None]:
    """The body of `POST /+node/fence`: epoch, and the new primary's URL; raises InvalidRequest."""
    try:
        values = orjson.loads(body)
        epoch, url = values["epoch"], values.get("url")
    except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError):
        raise InvalidRequest('fence takes {"epoch": …, "url": …}') from None
    if type(epoch) is not int or not 0 <= epoch <= MOST_EPOCH:
        raise InvalidRequest("epoch is not a number of an epoch")
    if url is not None and not _is_url(url):
        raise InvalidRequest("url is not an http URL")
    return epoch, url


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


@define
class Fencing:
    """Whether this primary still owns the log; `epoch` is that of its own last entry.

    `_wake` answers those who wait for news: they must hear of it at once.
    """

    _log = Logger()

    _state_dir: Path
    _threads: Runner
    _epoch: Callable[[], int]
    _wake: Callable[[], None]
    fence: Fence | None

    def own(self, epoch: int) -> None:
        """This primary owns an epoch: a fence of an earlier one is from before its promotion."""
        if self.fence is not None and self.fence.epoch <= epoch:
            self.fence = None

    def check(self) -> None:
        """Raise Superseded when another primary owns the log: nothing may be written here."""
        if self.fence is not None:
            raise Superseded(self._message, self.fence.url)

    def require_owner(self) -> None:
        """Raise NotOwner when another primary owns the log: nobody may follow this one."""
        if self.fence is not None:
            raise NotOwner(self._message, self.fence.url)

    def document(self) -> dict[str, Any] | None:
        """The `fenced` part of the status: None while this primary owns the log."""
        if self.fence is None:
            return None
        return {"epoch": self.fence.epoch, "primary_url": self.fence.url}

    @property
    def _message(self) -> str:
        assert self.fence is not None  # noqa: S101 (callers have looked)
        where = self.fence.url or "another node"
        return f"this primary was replaced by {where} (epoch {self.fence.epoch}): changes go there"

    async def learn(self, epoch: int, url: str | None) -> None:
        """Somebody who may know says that the log has come to `epoch`, owned by the node at `url`.

        Order: from this moment nothing is written here; then the fence is made durable.
        """
        if epoch <= self._epoch() or not self._is_news(epoch, url):
            return
        self.fence = Fence(epoch, url)
        self._log.error("fenced: {message}", message=self._message)
        self._wake()
        data = orjson.dumps({"epoch": epoch, "url": url})
        await self._threads.run(write_durably, self._state_dir / FENCED_FILE, data)

    def _is_news(self, epoch: int, url: str | None) -> bool:
        if self.fence is None or self.fence.epoch < epoch:
            return True
        # Who asked to be promoted may not have known its URL yet; followers are sent there.
        return self.fence.epoch == epoch and self.fence.url is None and url is not None
