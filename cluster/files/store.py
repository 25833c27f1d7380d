"""The content-addressed file store: ``<root>/sha256/ab/<64 hex digits>``.

A file is there whole or not at all: it is written below ``<root>/tmp`` (same file system), made
durable and then renamed. Files never change. They go in one way alone, `FileStore.take_away`
(a cache that is full, a damaged file), which forgets the size that is remembered here; whoever
finds no file where there was one asks for it anew. One process owns a store; others may read the
same folders.
"""

from __future__ import annotations

import os
import stat
from collections import Counter, OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from hashlib import sha256 as sha256_of
from pathlib import Path
from threading import Lock
from typing import Protocol
from uuid import uuid4

from attrs import define, field, frozen
from twisted.internet.defer import Deferred
from twisted.logger import Logger

from cluster.durable import sync_folder
from cluster.errors import InvalidRequest, Unavailable
from cluster.files.sink import Digests, HashingSink, write_all
from cluster.files.waiting import Broadcast
from cluster.model import SHA256
from cluster.threads import Runner

MEMO_ENTRIES = 16_384
_log = Logger()


@define
class Counters:
    """What status shows of a store; the last four count since this process started.

    `count` and `bytes` are of the files kept (complete once `scanned`). `hits` are answers from
    disk and `bytes_saved` their bytes, which no source had to send; `misses` are requests that
    needed a fetch.
    """

    count: int = 0
    bytes: int = 0
    scanned: bool = False
    hits: int = 0
    misses: int = 0
    bytes_saved: int = 0


class Watcher(Protocol):
    """Somebody who keeps account of the files; called on the reactor, and returns at once."""

    def added(self, sha256: str, size: int, *, fetched: bool) -> None:
        """A file is kept, or was there already; `fetched` if others can give it again."""

    def used(self, sha256: str) -> None:
        """A file was asked for."""

    def gone(self, sha256: str) -> None:
        """A file is not here any more."""


@frozen
class _Arrived:
    """A whole file below ``tmp``, and the descriptor by which it was written."""

    fd: int
    path: Path
    digests: Digests


@define(eq=False)
class FileStore:
    """Files by sha256 below `root`; all disk work happens in `threads`."""

    root: Path
    threads: Runner
    counters: Counters = field(factory=Counters)
    watchers: list[Watcher] = field(factory=list)
    _in_use: Counter[str] = field(factory=Counter)
    _leaving: set[str] = field(factory=set)
    _departures: int = 0
    _sizes: OrderedDict[str, int] = field(factory=OrderedDict)
    _durable_folders: set[Path] = field(factory=set)
    _not_durable: set[str] = field(factory=set)
    _placing: Lock = field(factory=Lock)
    _placed_while_scanning: set[str] = field(factory=set)
    _scanned: Broadcast = field(factory=Broadcast)

    async def open(self) -> None:
        """Make the folders and remove what a crash left in ``tmp``.

        The files are counted afterwards in the background: see `Counters.scanned`.
        """
        await self.threads.run(self._prepare)
        Deferred.fromCoroutine(self._count())

    def path(self, sha256: str) -> Path:
        """Where the file with this digest is or would be. Raises InvalidRequest."""
        if not SHA256.fullmatch(sha256):
            raise InvalidRequest(f"{sha256!r} is not a sha256 in lower-case hex")
        return self.root / "sha256" / sha256[:2] / sha256

    def is_here(self, sha256: str) -> bool:
        """Whether the file with this digest is here, durably. Blocking; raises InvalidRequest."""
        if not SHA256.fullmatch(sha256):
            raise InvalidRequest(f"{sha256!r} is not a sha256 in lower-case hex")
        has_name = os.path.exists(f"{self.root}/sha256/{sha256[:2]}/{sha256}")
        # In this order: a name that a power cut may take back is noted before it is there.
        return has_name and sha256 not in self._not_durable

    async def size_of(self, sha256: str) -> int | None:
        """The file's size in bytes, or None if it is not here."""
        if sha256 in self._sizes:
            self._sizes.move_to_end(sha256)
            self._tell_used(sha256)
            return self._sizes[sha256]
        path = self.path(sha256)
        if sha256 in self._leaving:
            return None
        before = self._departures
        size = await self.threads.run(_regular_file_size, path)
        if size is None or sha256 in self._leaving:
            return None
        if self._departures == before:
            self._remember(sha256, size)
        self._tell_used(sha256)
        return size

    def new_sink(self, hashes: Iterable[str] = ()) -> HashingSink:
        """A sink for a file that may be added later; `hashes` are computed beside sha256."""
        return HashingSink.create(self.root / "tmp" / uuid4().hex, self.threads, hashes)

    async def add(self, sink: HashingSink, *, fetched: bool = False) -> Digests:
        """Finish `sink` and keep its file; durable on return. The temporary file is gone then.

        Identical bytes that are here already stay. `fetched` says that other nodes or an
        upstream can give the file again. Raises Unavailable when the disk refuses.
        """
        return (await self.add_with(sink, fetched=fetched))[0]

    async def add_with(
        self, sink: HashingSink, *blobs: bytes, fetched: bool = False
    ) -> list[Digests]:
        """Keep a file, as `add` does, and the small blobs that belong to it, all at once."""
        digests = await sink.finish()
        return await self._add([_Arrived(sink.release(), sink.path, digests)], blobs, fetched)

    async def add_bytes(self, data: bytes) -> Digests:
        """Keep a small blob, as `add` does."""
        return (await self._add([], [data], False))[0]

    async def _add(
        self, arrived: list[_Arrived], blobs: Sequence[bytes], fetched: bool
    ) -> list[Digests]:
        try:
            kept = await self.threads.run(self._keep, arrived, blobs)
        except OSError as e:
            raise Unavailable(f"cannot keep a file: {e.strerror or e}") from e
        for digests, new in kept:
            if new:
                self.counters.count += 1
                self.counters.bytes += digests.size
            self._remember(digests.sha256, digests.size)
            for watcher in self.watchers:
                watcher.added(digests.sha256, digests.size, fetched=fetched)
        return [digests for digests, _ in kept]

    def served(self, size: int, sha256: str | None = None) -> None:
        """Count an answer of `size` body bytes, of a file that is here."""
        self.counters.hits += 1
        self.counters.bytes_saved += size
        if sha256 is not None:
            self._tell_used(sha256)

    @contextmanager
    def using(self, sha256: str) -> Iterator[None]:
        """A file that is read meanwhile is not taken away, and was used last at its end."""
        self._in_use[sha256] += 1
        try:
            yield
        finally:
            self._in_use[sha256] -= 1
            if not self._in_use[sha256]:
                del self._in_use[sha256]
            self._tell_used(sha256)

    def claim(self, sha256: str) -> None:
        """A file that is here is about to be named as uploaded: it is nobody's cache any more."""
        if sha256 in self._sizes:
            for watcher in self.watchers:
                watcher.added(sha256, self._sizes[sha256], fetched=False)

    def is_used(self, sha256: str) -> bool:
        """Whether a file is being read now."""
        return sha256 in self._in_use

    async def take_away(self, sha256: str, into: Path | None = None) -> int | None:
        """Delete a file, or move it into the folder `into`; its size in bytes.

        None if it was not here, or came again meanwhile. Who reads it goes on reading it.
        """
        path = self.path(sha256)
        self._sizes.pop(sha256, None)
        self._leaving.add(sha256)
        self._departures += 1
        for watcher in self.watchers:
            watcher.gone(sha256)
        try:
            size = await self.threads.run(self._take_away, path, into)
        finally:
            self._leaving.discard(sha256)
        if size is None:
            return None
        self.counters.count -= 1
        self.counters.bytes -= size
        return size

    def lost(self, sha256: str) -> None:
        """A file is not where it was: somebody else has removed it."""
        self._sizes.pop(sha256, None)
        for watcher in self.watchers:
            watcher.gone(sha256)

    def _tell_used(self, sha256: str) -> None:
        for watcher in self.watchers:
            watcher.used(sha256)

    def missed(self) -> None:
        """Count a request for a file that was not here."""
        self.counters.misses += 1

    def _remember(self, sha256: str, size: int) -> None:
        self._sizes[sha256] = size
        if len(self._sizes) > MEMO_ENTRIES:
            self._sizes.popitem(last=False)

    async def counted(self) -> None:
        """Wait until `counters` include what was there before."""
        while not self.counters.scanned:
            await self._scanned.wait()

    async def _count(self) -> None:
        try:
            count, size = await self.threads.run(self._scan)
        except OSError:
            _log.failure("cannot count the files below {root}", root=self.root)
            return
        self.counters.count += count
        self.counters.bytes += size
        self.counters.scanned = True
        self._placed_while_scanning.clear()
        self._scanned.wake()

    # Below: in threads.

    def _prepare(self) -> None:
        (self.root / "sha256").mkdir(parents=True, exist_ok=True)
        (self.root / "tmp").mkdir(exist_ok=True)
        # Whoever was writing these is dead: the store has one owner.
        for left_over in (self.root / "tmp").iterdir():
            left_over.unlink()

    def _keep(self, arrived: list[_Arrived], blobs: Sequence[bytes]) -> list[tuple[Digests, bool]]:
        try:
            for data in blobs:
                self._write(data, arrived)
            # A name must never exist before the bytes are durable: a crash in between would
            # leave an empty or short file under the digest of the whole one. One step for all
            # files after the other: a file system's journal takes many at a time.
            for one in arrived:
                os.fchmod(one.fd, 0o444)
                os.fsync(one.fd)
            finals = [self.path(one.digests.sha256) for one in arrived]
            for final in finals:
                self._make_durable_folders(final.parent)
            new = [self._place(one.path, final) for one, final in zip(arrived, finals, strict=True)]
            # Without this a power cut undid the rename (seen on XFS), after the change log
            # already named the file.
            for folder in {final.parent for final in finals}:
                sync_folder(folder)
            # After a sync that failed they stay: whoever adds them again makes them durable.
            self._not_durable.difference_update(final.name for final in finals)
        finally:
            for one in arrived:
                os.close(one.fd)
                one.path.unlink(missing_ok=True)
        return [(one.digests, is_new) for one, is_new in zip(arrived, new, strict=True)]

    def _write(self, data: bytes, arrived: list[_Arrived]) -> None:
        digests = Digests(len(data), {"sha256": sha256_of(data).hexdigest()})
        path = self.root / "tmp" / uuid4().hex
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        arrived.append(_Arrived(fd, path, digests))
        write_all(fd, data)

    def _place(self, temporary: Path, final: Path) -> bool:
        with self._placing:
            # Who takes the file away at this moment finds that it is wanted after all.
            self._leaving.discard(final.name)
            if _regular_file_size(final) is not None:
                return False
            if not self.counters.scanned:
                self._placed_while_scanning.add(final.name)
            self._not_durable.add(final.name)
            temporary.rename(final)
            return True

    def _take_away(self, path: Path, into: Path | None) -> int | None:
        with self._placing:
            size = _regular_file_size(path) if path.name in self._leaving else None
            if size is None:
                return None
            if into is None:
                path.unlink()
            else:
                into.mkdir(exist_ok=True)
                path.rename(into / path.name)
            return size

    def _make_durable_folders(self, folder: Path) -> None:
        if folder in self._durable_folders or folder == self.root:
            return
        self._make_durable_folders(folder.parent)
        folder.mkdir(exist_ok=True)
        sync_folder(folder.parent)
        self._durable_folders.add(folder)

    def _scan(self) -> tuple[int, int]:
        count = size = 0
        for folder, _, names in os.walk(self.root / "sha256"):
            for name in names:
                # Files placed since `open` are counted by `add`.
                if name not in self._placed_while_scanning:
                    count += 1
                    size += os.lstat(os.path.join(folder, name)).st_size
        return count, size


def _regular_file_size(path: Path) -> int | None:
    try:
        found = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    return found.st_size if stat.S_ISREG(found.st_mode) else None
