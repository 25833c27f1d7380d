"""What a replica knows of the files that hosted indexes hold, and how it gets those it keeps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import pytest_twisted
from attrs import define, field
from twisted.internet.defer import Deferred

from cluster.files.fetch import Fetcher
from cluster.files.sources import BodySink, Source, SourceError, Wanted
from cluster.log import changelog
from cluster.log.changes import Change, Kind
from cluster.rollback import roll_back
from cluster.state import queries
from cluster.threads import Runner
from replica.filesync import FULL, MOST_AT_ONCE, MOST_BESIDE_CLIENTS, FileSync, keeper
from tests.fakes import as_clock
from tests.indexed import DEV, OTHER
from tests.keeping_site import Keeping, sha256, site, uploaded


@define(eq=False)
class Given:
    """A body that is whole at once, or when the test says so."""

    data: bytes
    gate: Deferred[None] | None
    start: int = 0
    etag: str | None = None
    passes_on: bool = True
    kept: bool = True

    @property
    def length(self) -> int:
        return len(self.data)

    async def deliver(self, sink: BodySink) -> None:
        if self.gate is not None:
            await self.gate
        sink.write(self.data)

    def abort(self) -> None:
        """Nothing to close."""


@define(eq=False)
class Shelf:
    """Another node, that has what the test puts there."""

    name: str = "shelf"
    data: dict[str, bytes] = field(factory=dict)
    gates: dict[str, Deferred[None]] = field(factory=dict)
    asked: list[str] = field(factory=list)

    def put(self, data: bytes, *, held: bool = False) -> str:
        name = sha256(data)
        self.data[name] = data
        if held:
            self.gates[name] = Deferred()
        return name

    async def open(self, wanted: Wanted) -> Given:
        name = wanted.sha256 or ""
        self.asked.append(name)
        if name not in self.data:
            raise SourceError("not here", 503)
        return Given(self.data[name], self.gates.get(name))


@define(eq=False)
class Syncing:
    """A replica's file sync over `it`."""

    it: Keeping
    shelf: Shelf
    fetcher: Fetcher
    sync: FileSync
    reachable: bool = True
    progress: list[int] = field(factory=list)


def syncing(it: Keeping, files: str = FULL) -> Syncing:
    shelf = Shelf()
    fetcher = Fetcher(it.store, as_clock(it.clock), lambda *_: None)

    def sources(name: str) -> Sequence[Source]:
        return [shelf]

    it.kept = keeper(files)
    made = Syncing(
        it, shelf, fetcher,
        FileSync(
            it.keeping.hosted, fetcher, sources, lambda: made.reachable, as_clock(it.clock), it.now
        ),
    )  # fmt: skip
    made.sync.progressed = lambda: made.progress.append(made.sync.files_position)
    it.start()
    made.sync.start()
    return made


@pytest_twisted.ensureDeferred
async def test_full_brings_everything(tmp_path: Path) -> None:
    """Each upload comes as soon as its entry is there; files_position rises to the head."""
    async with site(tmp_path) as it:
        made = syncing(it)
        datas = [bytes([n]) * 1_000 for n in range(20)]
        names = [made.shelf.put(data) for data in datas]
        it.node.log(*[uploaded(f"p{n}", data) for n, data in enumerate(datas)])
        it.pass_time(5, 0.5)
        assert all(it.has(name) for name in names)
        assert sorted(made.shelf.asked) == sorted(names), "each once"
        document = made.sync.document()
        assert (document["files"], document["files_missing"]) == (True, 0)
        assert document["files_position"] == it.node.at.serial
        assert (document["files_fetched"], document["files_fetched_bytes"]) == (20, 20_000)
        assert made.progress[-1] == it.node.at.serial
        await made.sync.stop()


@pytest_twisted.ensureDeferred
async def test_a_burst_is_one_look_where_nobody_waits(tmp_path: Path) -> None:
    """Where no file is fetched ahead many uploads are looked at once, a little later."""
    async with site(tmp_path) as it:
        it.start()
        hosted = it.keeping.hosted
        before = hosted.serial
        for n in range(5):
            it.node.log(uploaded(f"p{n}", bytes([n])))
        assert (hosted.serial, hosted.missing) == (before, 0)
        it.clock.advance(1)
        assert (hosted.serial, hosted.missing) == (it.node.at.serial, 5)
        hosted.is_eager = True
        it.node.log(uploaded("p5", b"5"))
        assert hosted.missing == 6


@pytest_twisted.ensureDeferred
async def test_files_position_stops_before_the_first_gap(tmp_path: Path) -> None:
    """It is the serial before the oldest file that is not here, whatever came later."""
    async with site(tmp_path) as it:
        made = syncing(it)
        first, second, third = b"1" * 10, b"2" * 10, b"3" * 10
        made.shelf.put(first), made.shelf.put(third)
        start = it.node.at.serial
        it.node.log(*[uploaded(f"p{n}", d) for n, d in enumerate((first, second, third))])
        it.pass_time(3, 0.5)
        assert made.sync.files_position == start + 1
        assert (made.sync.in_sync, made.sync.missing) == (False, 1)
        made.shelf.put(second)
        it.pass_time(20, 0.5)
        assert made.sync.files_position == start + 3
        assert made.sync.in_sync is True
        await made.sync.stop()


class FullDisk:
    """A thread whose database can write nothing."""

    async def run(self, f: Callable[..., Any], *args: Any, **kw: Any) -> Any:
        raise OSError("no space left on device")


@pytest_twisted.ensureDeferred
async def test_what_could_not_be_written_is_not_forgotten(tmp_path: Path) -> None:
    """A file that is lost while the node's own database fails counts as missing once it works
    again, not only at the hourly look through everything."""
    async with site(tmp_path) as it:
        it.start()
        hosted = it.keeping.hosted
        name = await it.add(b"data", fetched=False)
        it.node.log(uploaded("foo", b"data"))
        it.clock.advance(1)
        at = it.node.at.serial
        assert (hosted.missing, hosted.files_position) == (0, at)
        works, it.local.writer = it.local.writer, cast(Runner, FullDisk())
        it.store.path(name).unlink()
        hosted.gone(name)
        it.clock.advance(1)
        it.local.writer = works
        it.pass_time(10)
        assert (hosted.missing, hosted.files_position) == (1, at - 1)


@pytest_twisted.ensureDeferred
async def test_lazy_and_patterns(tmp_path: Path) -> None:
    """Lazy fetches nothing by itself, but knows what is missing; patterns name indexes."""
    async with site(tmp_path) as it:
        made = syncing(it, "root/*,nobody/else")
        mine, theirs = b"m" * 10, b"t" * 10
        names = made.shelf.put(mine), made.shelf.put(theirs)
        it.node.log(uploaded("mine", mine, DEV), uploaded("theirs", theirs, OTHER))
        it.pass_time(10, 0.5)
        assert made.shelf.asked == [names[0]]
        assert (made.sync.missing, it.keeping.hosted.missing_kept) == (1, 0)
        await it.add(theirs)
        it.pass_time(5, 0.5)
        assert made.sync.in_sync is True
        await made.sync.stop()
    assert not keeper("lazy")("root/dev")
    assert keeper("full")("root/dev")


@pytest_twisted.ensureDeferred
async def test_bounded_and_behind_clients(tmp_path: Path) -> None:
    """At most eight at a time, and few while a client waits for another file."""
    async with site(tmp_path) as it:
        made = syncing(it)
        datas = [bytes([n]) * 1_000 for n in range(30)]
        names = [made.shelf.put(data, held=True) for data in datas]
        client = made.shelf.put(b"client", held=True)
        it.node.log(*[uploaded(f"p{n}", data) for n, data in enumerate(datas)])
        it.pass_time(5, 0.5)
        assert len(made.shelf.asked) == MOST_AT_ONCE
        made.fetcher.start(Wanted("client", sha256=client), [made.shelf])
        for name in names[:MOST_AT_ONCE]:
            made.shelf.gates[name].callback(None)
        it.pass_time(5, 0.5)
        assert len(made.shelf.asked) == 1 + MOST_AT_ONCE + MOST_BESIDE_CLIENTS
        made.shelf.gates[client].callback(None)
        it.pass_time(10, 0.5)
        assert len(made.shelf.asked) == 1 + 2 * MOST_AT_ONCE
        await made.sync.stop()
        assert made.fetcher.count() == 0


@pytest_twisted.ensureDeferred
async def test_what_fails_waits_longer_each_time(tmp_path: Path) -> None:
    """A file that nobody can give delays no other, is asked for less and less often, and at once
    when the primary is back."""
    async with site(tmp_path) as it:
        made = syncing(it)
        made.shelf.put(b"good")
        it.node.log(uploaded("bad", b"bad"), uploaded("good", b"good"))
        it.pass_time(100, 0.5)
        assert it.has(sha256(b"good"))
        times = made.shelf.asked.count(sha256(b"bad"))
        assert 3 <= times <= 6
        error = made.sync.document()["files_errors"][-1]
        assert (error["file"], error["tries"]) == ("bad-1.0.tar.gz", times)
        made.reachable = False
        it.pass_time(10)
        made.shelf.put(b"bad")
        made.reachable = True
        it.pass_time(10)
        assert it.has(sha256(b"bad"))
        await made.sync.stop()


@pytest_twisted.ensureDeferred
async def test_a_start_finds_what_is_missing(tmp_path: Path) -> None:
    """What was here and what was not is found again after a restart; removed files do not count."""
    async with site(tmp_path) as it:
        here, gone, removed = b"here", b"gone", b"removed"
        await it.add(here)
        changes = [uploaded("here", here), uploaded("gone", gone), uploaded("old", removed)]
        it.node.log(*changes)
        where = {"index": DEV, "project": "old", "filename": "old-1.0.tar.gz"}
        it.node.log(Change(Kind.FILE_REMOVED, where))
        made = syncing(it, "lazy")
        assert made.sync.missing == 1
        assert made.sync.checked_serial == it.node.at.serial
        await made.sync.stop()


@pytest_twisted.ensureDeferred
async def test_a_rolled_back_log_is_looked_at_again(tmp_path: Path) -> None:
    """Files of entries that took the serials of others are missed: none is vouched for unseen."""
    async with site(tmp_path) as it:
        made = syncing(it, "lazy")
        common = it.node.at.serial
        await it.add(b"old")
        it.node.log(uploaded("one", b"old"), uploaded("two", b"old"))
        it.pass_time(3, 0.5)
        assert made.sync.files_position == common + 2
        await it.node.database.write(lambda c: roll_back(c, common, tmp_path))
        it.node.frontier = await it.node.database.read(changelog.frontier)
        it.node.at.rewind(await it.node.database.read(queries.head))
        assert made.sync.files_position == common
        it.node.log(uploaded("one", b"new"), uploaded("two", b"new"))
        it.pass_time(3, 0.5)
        assert (made.sync.files_position, made.sync.missing) == (common, 1)
        await made.sync.stop()
