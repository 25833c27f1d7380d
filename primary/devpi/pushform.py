"""A multipart form for another server, sent as it is read: no file is held in memory."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, BinaryIO, Final

from attrs import define, field, frozen
from twisted.internet.defer import Deferred
from twisted.web.iweb import IBodyProducer
from zope.interface import implementer  # type: ignore[attr-defined]

from cluster.files.waiting import Broadcast
from cluster.threads import Runner

_CHUNK_BYTES: Final = 256 << 10

FormFields = Iterable[tuple[str, str]]


@frozen
class Attachment:
    """A stored file of `size` bytes that goes into a form under `filename`."""

    path: Path
    filename: str
    size: int


class _Gone(Exception):
    """The connection does not take the rest."""


@implementer(IBodyProducer)
@define(eq=False)
class FormBody:
    """The body of a request; `length` is its size in bytes.

    `threads` read the attachment, at the pace of the connection.
    """

    _fields: FormFields
    _attachment: Attachment | None
    _threads: Runner
    boundary: str = field(factory=lambda: f"pymirror-{secrets.token_hex(16)}")
    length: int = field(init=False)
    _head: bytes = field(init=False, repr=False)
    _tail: bytes = field(init=False)
    _paused: bool = False
    _gone: bool = False
    _changed: Broadcast = field(factory=Broadcast)

    def __attrs_post_init__(self) -> None:
        self._head = b"".join(self._parts())
        end = f"--{self.boundary}--\r\n".encode()
        self._tail = end if self._attachment is None else b"\r\n" + end
        size = 0 if self._attachment is None else self._attachment.size
        self.length = len(self._head) + size + len(self._tail)

    @property
    def content_type(self) -> str:
        """The header that goes with the body."""
        return f"multipart/form-data; boundary={self.boundary}"

    def _parts(self) -> Iterable[bytes]:
        for name, value in self._fields:
            yield self._part_head(f'name="{name}"') + b"\r\n" + value.encode() + b"\r\n"
        if self._attachment is not None:
            # Names of files that we hold have neither quotes nor line ends that matter here.
            filename = self._attachment.filename.replace("\\", "_").replace('"', "%22")
            head = self._part_head(f'name="content"; filename="{filename}"')
            yield head + b"Content-Type: application/octet-stream\r\n\r\n"

    def _part_head(self, what: str) -> bytes:
        return f"--{self.boundary}\r\nContent-Disposition: form-data; {what}\r\n".encode()

    def startProducing(self, consumer: Any) -> Deferred[None]:
        """Send all of it; the Deferred does not fire once the consumer has had enough."""
        done: Deferred[None] = Deferred()
        work = Deferred.fromCoroutine(self._produce(consumer))
        work.addCallbacks(
            done.callback, lambda f: None if f.check(_Gone) else done.errback(f)
        )  # fmt: skip
        return done

    async def _produce(self, consumer: Any) -> None:
        consumer.write(self._head)
        if self._attachment is not None:
            file = await self._threads.run(self._attachment.path.open, "rb")
            try:
                await self._send(file, consumer)
            finally:
                await self._threads.run(file.close)
        consumer.write(self._tail)

    async def _send(self, file: BinaryIO, consumer: Any) -> None:
        while True:
            while self._paused and not self._gone:
                await self._changed.wait()
            data = b"" if self._gone else await self._threads.run(file.read, _CHUNK_BYTES)
            if self._gone:
                raise _Gone
            if not data:
                return
            consumer.write(data)

    def pauseProducing(self) -> None:
        """The connection is slower than the disk."""
        self._paused = True

    def resumeProducing(self) -> None:
        """The connection takes more."""
        self._paused = False
        self._changed.wake()

    def stopProducing(self) -> None:
        """The connection is gone."""
        self._gone = True
        self._changed.wake()


def digests_of(path: Path) -> Mapping[str, str]:
    """The digests that upload forms state, by the names of their fields; blocks for long."""
    found: dict[str, Any] = {
        "sha256_digest": hashlib.sha256(),
        "blake2_256_digest": hashlib.blake2b(digest_size=32),
        "md5_digest": hashlib.md5(usedforsecurity=False),
    }
    with path.open("rb") as file:
        while data := file.read(_CHUNK_BYTES):
            for digest in found.values():
                digest.update(data)
    return {name: digest.hexdigest() for name, digest in found.items()}
