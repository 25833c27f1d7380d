"""The file store and the sink that fills it."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import Deferred

from cluster.errors import InvalidRequest, Unavailable
from cluster.files import sink as sink_module
from cluster.files import store as store_module
from cluster.files.sink import PAUSE_BYTES, HashingSink
from cluster.files.store import FileStore
from cluster.threads import Inline
from tests.file_servers import files_below, open_below, open_store

DATA = bytes(range(256)) * 1000
SHA256 = hashlib.sha256(DATA).hexdigest()


class Producer:
    """Counts what back-pressure asks of it."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def pauseProducing(self) -> None:
        self.calls.append("pause")

    def resumeProducing(self) -> None:
        self.calls.append("resume")


class Held:
    """Threads that work when the test says so."""

    def __init__(self) -> None:
        self.work: list[Callable[[], None]] = []

    async def run(self, f: Any, *args: Any, **kw: Any) -> Any:
        done: Deferred[Any] = Deferred()
        self.work.append(lambda: done.callback(None))
        await done
        return f(*args, **kw)

    def release(self) -> None:
        work, self.work = self.work, []
        for each in work:
            each()


@pytest_twisted.ensureDeferred
async def test_a_file_is_kept_under_its_digest(tmp_path: Path) -> None:
    """What goes in is there, whole, read-only, by its sha256; nothing is left in tmp."""
    async with open_store(tmp_path) as store:
        sink = store.new_sink(["md5", "blake2b_256"])
        for at in range(0, len(DATA), 1000):
            sink.write(DATA[at : at + 1000])
        digests = await store.add(sink)
        assert digests.size == len(DATA)
        assert digests.hashes == {
            "sha256": SHA256,
            "md5": hashlib.md5(DATA, usedforsecurity=False).hexdigest(),
            "blake2b_256": hashlib.blake2b(DATA, digest_size=32).hexdigest(),
        }
        path = store.path(SHA256)
        assert path == tmp_path / "sha256" / SHA256[:2] / SHA256
        assert path.read_bytes() == DATA
        assert stat.S_IMODE(path.stat().st_mode) == 0o444
        assert files_below(tmp_path) == [path]
        assert await store.size_of(SHA256) == len(DATA)


@pytest_twisted.ensureDeferred
async def test_bytes_are_durable_before_the_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """fsync of the file, then rename, then fsync of the folder: no other order survives a crash."""
    seen: list[tuple[str, bool]] = []
    real = os.fsync
    store = FileStore(tmp_path, Inline())
    await store.open()

    def fsync(fd: int) -> None:
        what = os.readlink(f"/proc/self/fd/{fd}")
        name = os.path.relpath(what, tmp_path)
        seen.append(("tmp" if name.startswith("tmp/") else name, store.path(SHA256).exists()))
        real(fd)

    monkeypatch.setattr(os, "fsync", fsync)
    await store.add_bytes(DATA)
    folder = f"sha256/{SHA256[:2]}"
    assert seen[0] == ("tmp", False)
    assert seen[-1] == (folder, True)
    assert (os.path.dirname(folder), False) in seen
    assert ("sha256", False) in seen


@pytest_twisted.ensureDeferred
async def test_the_same_bytes_again(tmp_path: Path) -> None:
    """Identical bytes are kept once and counted once."""
    async with open_store(tmp_path) as store:
        await store.counted()
        await store.add_bytes(DATA)
        inode = store.path(SHA256).stat().st_ino
        await store.add_bytes(DATA)
        assert store.path(SHA256).stat().st_ino == inode
        assert files_below(tmp_path) == [store.path(SHA256)]
        assert (store.counters.count, store.counters.bytes) == (1, len(DATA))


@pytest_twisted.ensureDeferred
async def test_start_sweeps_and_counts(tmp_path: Path) -> None:
    """A new process removes what a crash left in tmp and knows how much it holds."""
    async with open_store(tmp_path) as store:
        await store.add_bytes(DATA)
        await store.add_bytes(b"")
    (tmp_path / "tmp" / "left-over").write_bytes(b"half")
    async with open_store(tmp_path) as store:
        assert list((tmp_path / "tmp").iterdir()) == []
        await store.counted()
        assert (store.counters.count, store.counters.bytes) == (2, len(DATA))
        assert await store.size_of(SHA256) == len(DATA)


@pytest_twisted.ensureDeferred
async def test_files_added_while_counting_count_once(tmp_path: Path) -> None:
    """A file that arrives before the scan reads its folder is not counted twice."""
    held = Held()
    store = FileStore(tmp_path, held)  # type: ignore[arg-type]
    opening = Deferred.fromCoroutine(store.open())
    held.release()
    await opening
    scan, held.work = held.work, []
    adding = Deferred.fromCoroutine(store.add_bytes(DATA))
    while not adding.called:
        held.release()
    assert store.path(SHA256).exists()
    scan[0]()
    await store.counted()
    assert (store.counters.count, store.counters.bytes) == (1, len(DATA))


@pytest_twisted.ensureDeferred
async def test_absent_and_impossible_files(tmp_path: Path) -> None:
    """Unknown digests are None; what is no digest never becomes a path."""
    async with open_store(tmp_path) as store:
        assert await store.size_of(SHA256) is None
        await store.add_bytes(DATA)
        assert await store.size_of(SHA256) == len(DATA)
        for bad in ("../../etc/passwd", "", SHA256.upper(), SHA256 + "\n", SHA256[:-1]):
            with pytest.raises(InvalidRequest):
                await store.size_of(bad)


@pytest_twisted.ensureDeferred
async def test_hot_files_cost_no_stat(tmp_path: Path) -> None:
    """A size that is known is answered without a thread."""
    held = Held()
    await FileStore(tmp_path, Inline()).open()
    await FileStore(tmp_path, Inline()).add_bytes(DATA)
    store = FileStore(tmp_path, held)  # type: ignore[arg-type]
    first = Deferred.fromCoroutine(store.size_of(SHA256))
    held.release()
    assert await first == len(DATA)
    assert await store.size_of(SHA256) == len(DATA)


@pytest_twisted.ensureDeferred
async def test_an_empty_file(tmp_path: Path) -> None:
    """No bytes are a file too."""
    async with open_store(tmp_path) as store:
        digests = await store.add(store.new_sink())
        assert digests.size == 0
        assert store.path(digests.sha256).read_bytes() == b""


@pytest_twisted.ensureDeferred
async def test_a_dropped_sink_leaves_nothing(tmp_path: Path) -> None:
    """abort removes the file, closes it, and fails all who wait."""
    async with open_store(tmp_path) as store:
        sink = store.new_sink()
        sink.write(DATA)
        assert await sink.wait_beyond(0) == len(DATA)
        assert len(open_below(tmp_path)) == 1
        waiting = Deferred.fromCoroutine(sink.wait_beyond(len(DATA)))
        await sink.abort(InvalidRequest("enough"))
        for work in (waiting, sink.finish(), sink.drained()):
            with pytest.raises(InvalidRequest, match="enough"):
                await work
        with pytest.raises(InvalidRequest, match="enough"):
            sink.write(b"more")
        assert files_below(tmp_path) == []


@pytest_twisted.ensureDeferred
async def test_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """ENOSPC surfaces as Unavailable, a paused producer is let go, and no file is left."""

    def full(fd: int, data: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(sink_module, "write_all", full)
    async with open_store(tmp_path) as store:
        sink = store.new_sink()
        producer = Producer()
        sink.attach(producer)
        sink.write(bytes(PAUSE_BYTES + 1))
        with pytest.raises(Unavailable, match="No space left"):
            await store.add(sink)
        assert producer.calls == ["pause", "resume"]
        assert files_below(tmp_path) == []
        with pytest.raises(Unavailable):
            sink.write(b"more")
        monkeypatch.setattr(store_module, "write_all", full)
        with pytest.raises(Unavailable, match="No space left"):
            await store.add_bytes(DATA)
        assert files_below(tmp_path) == []


@pytest_twisted.ensureDeferred
async def test_here_when_durable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file counts as here only when a power cut cannot take its name away any more, also after
    a sync of its folder that failed."""
    seen: list[bool] = []
    real, is_broken = os.fsync, True

    async with open_store(tmp_path) as store:

        def fsync(fd: int) -> None:
            if store.path(SHA256).exists():
                seen.append(store.is_here(SHA256))
                if is_broken:
                    raise OSError(errno.EIO, "Input/output error")
            real(fd)

        monkeypatch.setattr(os, "fsync", fsync)
        with pytest.raises(Unavailable, match="Input/output"):
            await store.add_bytes(DATA)
        assert not store.is_here(SHA256)
        is_broken = False
        await store.add_bytes(DATA)
        assert store.is_here(SHA256)
    assert len(seen) >= 2
    assert not any(seen)


@pytest_twisted.ensureDeferred
async def test_a_failing_fsync(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file whose fsync failed gets no name, and is not left behind."""

    def broken(fd: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    async with open_store(tmp_path) as store:
        monkeypatch.setattr(os, "fsync", broken)
        with pytest.raises(Unavailable, match="Input/output"):
            await store.add_bytes(DATA)
        assert files_below(tmp_path) == []
        assert await store.size_of(SHA256) is None


@pytest_twisted.ensureDeferred
async def test_back_pressure(tmp_path: Path) -> None:
    """Beyond a megabyte the producer is paused, and resumed when the disk has caught up."""
    held = Held()
    sink = HashingSink.create(tmp_path / "file", held)  # type: ignore[arg-type]
    producer = Producer()
    sink.attach(producer)
    sink.write(b"a")
    assert len(held.work) == 1
    sink.write(bytes(PAUSE_BYTES))
    assert producer.calls == ["pause"]
    sink.write(b"b")
    drained = Deferred.fromCoroutine(sink.drained())
    held.release()
    assert sink.bytes_written == 1
    assert len(held.work) == 1, "one batch at a time, with all that has come"
    assert producer.calls == ["pause"]
    assert not drained.called
    held.release()
    assert sink.bytes_written == PAUSE_BYTES + 2
    assert producer.calls == ["pause", "resume"]
    await drained
    dropping = Deferred.fromCoroutine(sink.abort())
    held.release()
    await dropping


@settings(max_examples=30, deadline=None)
@given(st.lists(st.binary(max_size=3000), max_size=20))
def test_pieces_do_not_matter(pieces: list[bytes]) -> None:
    """However the bytes are cut, size and digest are those of the whole."""

    async def check(root: Path) -> None:
        store = FileStore(root, Inline())
        await store.open()
        sink = store.new_sink()
        for piece in pieces:
            sink.write(piece)
        digests = await store.add(sink)
        whole = b"".join(pieces)
        assert digests.size == len(whole)
        assert digests.sha256 == hashlib.sha256(whole).hexdigest()
        assert store.path(digests.sha256).read_bytes() == whole

    with tempfile.TemporaryDirectory() as folder:
        work = Deferred.fromCoroutine(check(Path(folder)))
        assert work.called
        failures: list[object] = []
        work.addErrback(failures.append)
        assert not failures
