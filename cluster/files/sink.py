"""Bytes on their way to disk: written to a temporary file and hashed, both off the reactor.

The writer never waits: bytes that come while a thread works collect and go as one batch when it
is done, so a slow source is readable at once and a fast one is written in large pieces. Memory is
bounded by pausing the producer.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Protocol

from attrs import define, field, frozen
from twisted.internet.defer import Deferred

from cluster.errors import Unavailable
from cluster.files.waiting import Broadcast
from cluster.threads import Runner

PAUSE_BYTES = 1 << 20
RESUME_BYTES = 256 << 10


class Hash(Protocol):
    """The part of hashlib's objects that we use."""

    def update(self, data: bytes, /) -> None:
        """Add bytes."""

    def hexdigest(self) -> str:
        """The digest of all bytes added, in lower-case hex."""


# Names as in the simple API (hashlib's); blake2b_256 as in PyPI's legacy JSON API.
_HASHES: Mapping[str, Callable[[], Hash]] = {
    "sha224": hashlib.sha224,
    "sha256": hashlib.sha256,
    "sha384": hashlib.sha384,
    "sha512": hashlib.sha512,
    "sha3_256": hashlib.sha3_256,
    "sha3_512": hashlib.sha3_512,
    "blake2s": hashlib.blake2s,
    "blake2b": hashlib.blake2b,
    "blake2b_256": lambda: hashlib.blake2b(digest_size=32),
    "md5": lambda: hashlib.md5(usedforsecurity=False),
    "sha1": lambda: hashlib.sha1(usedforsecurity=False),
}
HASH_NAMES = frozenset(_HASHES)


@frozen
class Digests:
    """What a file turned out to be: its size in bytes and lower-case hex digests by name."""

    size: int
    hashes: Mapping[str, str]

    @property
    def sha256(self) -> str:
        """The name of the content."""
        return self.hashes["sha256"]


class Pausable(Protocol):
    """The part of IPushProducer that back-pressure needs."""

    def pauseProducing(self) -> None:
        """Stop sending until `resumeProducing`."""

    def resumeProducing(self) -> None:
        """Send again."""


@define(eq=False)
class HashingSink:
    """One temporary file at `path` while it is written; ends in `release` (kept) or `abort`.

    `hashes` are names of HASH_NAMES computed beside sha256.
    """

    path: Path
    _threads: Runner
    _hashes: dict[str, Hash]
    bytes_written: int = 0
    """Bytes in the file: what others can read."""
    error: Exception | None = None
    """Why nothing more can be written: Unavailable (disk), or what `abort` was given."""
    finished: bool = False
    """Whether all bytes are in the file and no more will come."""
    _fd: int | None = None
    _released: bool = False
    _queue: list[bytes] = field(factory=list)
    _pending: int = 0
    _working: bool = False
    _producer: Pausable | None = None
    _paused: bool = False
    _progress: Broadcast = field(factory=Broadcast)

    @classmethod
    def create(cls, path: Path, threads: Runner, hashes: Iterable[str] = ()) -> HashingSink:
        """A sink for the file at `path`, which must not exist; it is made with the first byte."""
        return cls(path, threads, {name: _HASHES[name]() for name in {"sha256", *hashes}})

    def attach(self, producer: Pausable | None) -> None:
        """Let `producer` be paused while more than PAUSE_BYTES wait for the disk."""
        self._producer = producer
        self._paused = False
        self._balance()

    def write(self, data: bytes) -> None:
        """Take bytes, from the reactor's thread. Raises `error` if the sink has failed."""
        if self.error is not None:
            raise self.error
        self._queue.append(data)
        self._pending += len(data)
        self._balance()
        self._work()

    async def drained(self) -> None:
        """Wait until little is pending: back-pressure for writers without a producer."""
        while self._pending > RESUME_BYTES and self.error is None:
            await self._progress.wait()
        self._raise_error()

    async def wait_beyond(self, offset: int) -> int:
        """Wait until more than `offset` bytes can be read, or all; returns how many can.

        Raises `error`.
        """
        while self.bytes_written <= offset and not self.finished and self.error is None:
            await self._progress.wait()
        self._raise_error()
        return self.bytes_written

    async def flushed(self) -> None:
        """Wait until all bytes that were written so far are in the file, or the sink failed."""
        while self._working:
            await self._progress.wait()

    async def finish(self) -> Digests:
        """Wait until all bytes are in the file (not yet durable: `FileStore.add`).

        Raises Unavailable when the disk refused them; the temporary file is gone then.
        """
        await self.flushed()
        self._raise_error()
        if self._fd is None:
            await self._in_thread(self._open)
            self._raise_error()
        self.finished = True
        self._progress.wake()
        return Digests(self.bytes_written, {n: h.hexdigest() for n, h in self._hashes.items()})

    def release(self) -> int:
        """Give the finished file's descriptor to the caller, who closes it and owns `path`."""
        if self._fd is None or not self.finished:
            raise RuntimeError("only a finished sink can be released")
        fd, self._fd, self._released = self._fd, None, True
        return fd

    async def abort(self, reason: Exception | None = None) -> None:
        """Drop everything: whoever waits gets `reason`, the temporary file is removed."""
        self._fail(reason or Unavailable("the file was dropped before its end"))
        await self.flushed()
        if not self._released:
            await self._threads.run(self._remove)

    def _work(self) -> None:
        if not self._working and self._queue and self.error is None:
            self._working = True
            # Started from write(), which never raises for the disk: `_flush` keeps its error.
            Deferred.fromCoroutine(self._flush())

    async def _flush(self) -> None:
        while self._queue:
            batch, self._queue = self._queue, []
            size = sum(map(len, batch))
            await self._in_thread(self._append, batch)
            if self.error is not None:
                break
            self._pending -= size
            self.bytes_written += size
            self._balance()
            self._progress.wake()
        self._working = False
        self._progress.wake()

    async def _in_thread(self, f: Callable[..., None], *args: object) -> None:
        try:
            await self._threads.run(f, *args)
        except OSError as e:
            await self._threads.run(self._remove)
            self._fail(Unavailable(f"cannot write a file: {e.strerror or e}"))

    def _fail(self, error: Exception) -> None:
        self.error = self.error or error
        self._queue.clear()
        self._pending = 0
        # A paused producer would never call write() again, where it learns of the error.
        self._balance()
        self._progress.wake()

    def _balance(self) -> None:
        if self._producer is None:
            return
        if not self._paused and self._pending > PAUSE_BYTES:
            self._paused = True
            self._producer.pauseProducing()
        elif self._paused and self._pending <= RESUME_BYTES:
            self._paused = False
            self._producer.resumeProducing()

    def _raise_error(self) -> None:
        if self.error is not None:
            raise self.error

    # Below: in a thread, one call at a time.

    def _open(self) -> None:
        if self._fd is None:
            flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            self._fd = os.open(self.path, flags, 0o600)

    def _append(self, batch: list[bytes]) -> None:
        self._open()
        assert self._fd is not None  # noqa: S101 - for the type checker
        for data in batch:
            write_all(self._fd, data)
            for each in self._hashes.values():
                each.update(data)

    def _remove(self) -> None:
        # After `release` neither the descriptor nor the path is ours any more.
        fd, self._fd = self._fd, None
        if fd is not None:
            os.close(fd)
            self.path.unlink(missing_ok=True)


def write_all(fd: int, data: bytes) -> None:
    """Write all of it, however little the system takes at a time; blocking, raises OSError."""
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
