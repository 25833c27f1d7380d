"""Compaction: what may go, what is told to who needs it still, and both edges of the cut."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import pytest
import pytest_twisted
from attrs import define, field
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.task import Clock

from cluster.log import changelog
from cluster.log.changelog import Compacted
from cluster.log.changes import Change, Kind, encode
from cluster.log.merkle import Frontier
from cluster.state import queries
from cluster.state.apply import apply
from cluster.state.database import Database, writing
from cluster.state.rows import Touched
from cluster.web.xmllists import changes_since
from primary.compaction import Compaction, Retention, new_minimum, oldest_staged, serial_before
from primary.snapshotfiles import Snapshot
from primary.snapshots import Snapshots
from tests.fakes import START, as_clock, database, user_set
from tests.indexed import DEV, PYPI, Node, listed, release, running_node
from tests.snapshots import load, make, opened, record_all

ALL_GOES = Retention(0, 0)
SIZE = 40
DAY = datetime(2026, 1, 1, tzinfo=UTC)


@define
class Kept:
    """The part of `Snapshots` that compaction looks at."""

    kept: list[Snapshot] = field(factory=list)
    compaction_error: str | None = None
    minimum: int = 0


@define
class Site:
    """A log of one entry a day, and its compaction."""

    database: Database
    folder: Path
    snapshots: Kept = field(factory=Kept)
    slowest: int | None = None
    needed: int | None = None
    clock: Clock = field(factory=Clock)

    def snapshot(self) -> None:
        self.snapshots.kept.append(make(self.database.engine, self.folder / "snapshots"))

    def compaction(self, retention: Retention) -> Compaction:
        async def needed() -> int | None:
            return self.needed

        return Compaction(
            self.database, cast(Snapshots, self.snapshots), as_clock(self.clock),
            (DAY + timedelta(SIZE + 1)).timestamp, lambda seconds: self.slowest, needed, retention,
        )  # fmt: skip

    def record(self, *changes: Change) -> None:
        record_all(self.database.engine, changes)

    def minimum(self) -> int:
        with self.database.engine.begin() as connection:
            return changelog.minimum(connection)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with database() as own:
        with writing(own.engine) as connection:
            frontier = Frontier()
            for serial in range(1, SIZE + 1):
                change = START if serial == 1 else user_set(f"user-{serial}")
                time = (DAY + timedelta(serial)).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
                entry = encode(change, serial=serial, epoch=1, time=time, actor="root")
                apply(connection, entry, Touched())
                frontier = changelog.append(connection, frontier, [entry])
        yield Site(own, tmp_path)


def with_snapshots(site: Site) -> Site:
    """Snapshots at 40 and 42."""
    site.snapshot()
    site.record(user_set("x"), user_set("y"))
    site.snapshot()
    return site


@given(st.integers(1, 10**9), st.integers(0, 10**9) | st.none(), st.integers(0, 10**7))
def test_bounds_of_the_minimum(older: int, slowest: int | None, entries: int) -> None:
    """Never above the older snapshot less what is kept; a replica holds it back by at most as
    much again."""
    found = new_minimum(older, slowest, Retention(entries, 0))
    assert 0 <= found <= max(0, older - entries)
    assert found >= max(0, older - 2 * entries)
    if slowest is not None and slowest >= older - 2 * entries:
        assert found <= slowest


@pytest_twisted.ensureDeferred
async def test_nothing_goes_without_two_snapshots(site: Site) -> None:
    """One snapshot is not enough: who loads the one before it must find its tail."""
    assert await site.compaction(ALL_GOES).compact() == 0
    site.snapshot()
    assert await site.compaction(ALL_GOES).compact() == 0
    site.record(user_set("x"))
    site.snapshot()
    assert await site.compaction(ALL_GOES).compact() == SIZE
    assert site.snapshots.minimum == site.minimum() == SIZE


@pytest.mark.parametrize(
    ("retention", "slowest", "needed", "expected"),
    [
        (ALL_GOES, None, None, 40),
        (Retention(10, 0), None, None, 30),
        (Retention(10, 0), 25, None, 25),
        (Retention(10, 0), 12, None, 20),
        (Retention(10, 0), 35, None, 30),
        (ALL_GOES, 12, None, 40),
        (Retention(0, 5), None, None, 35),
        (Retention(0, 400), None, None, 0),
        (ALL_GOES, None, 7, 7),
        (Retention(1_000, 0), None, None, 0),
    ],
)
@pytest_twisted.ensureDeferred
async def test_what_holds_entries(
    site: Site, retention: Retention, slowest: int | None, needed: int | None, expected: int
) -> None:
    """Of entries, days, a replica and what reads here, whichever wants most is obeyed; but a
    replica gets no more than the bound."""
    with_snapshots(site)
    site.slowest, site.needed = slowest, needed
    assert await site.compaction(retention).compact() == expected
    assert site.minimum() == expected


@pytest_twisted.ensureDeferred
async def test_what_was_needed_goes_soon(site: Site) -> None:
    """Entries that something here had yet to read go seconds later, not at the next snapshot."""
    with_snapshots(site)
    site.needed = 7
    compaction = site.compaction(ALL_GOES)
    compaction.look()
    assert site.minimum() == 7
    site.needed = None
    site.clock.advance(5)
    assert site.minimum() == SIZE
    await compaction.stop()


@pytest_twisted.ensureDeferred
async def test_open_stages_hold_entries(site: Site) -> None:
    """A change that waits for its stage is told to triggers when that is published: it stays."""
    site.record(Change(Kind.INDEX_SET, {"index": DEV, "type": "stage", "options": {}}))
    upload = release("a", "1")
    site.record(Change(upload.kind, {**upload.payload, "stage": "s"}))
    for name in ("x", "y", "z"):
        site.record(user_set(name))
        site.snapshot()
    with site.database.engine.begin() as connection:
        assert oldest_staged(connection) == SIZE + 1
    assert await site.compaction(ALL_GOES).compact() == SIZE + 1


def test_bisection_by_time(site: Site) -> None:
    """The last serial before a moment, at and between entries, and outside of the log."""
    with site.database.engine.begin() as connection:
        for days, expected in ((-1, 0), (1, 0), (1.5, 1), (2, 1), (20.5, 20), (99, SIZE)):
            moment = (DAY + timedelta(days)).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
            assert serial_before(connection, moment) == expected


@pytest_twisted.ensureDeferred
async def test_both_edges(site: Site, tmp_path: Path) -> None:
    """At exactly the minimum the next entry is there, a removal too; one below, nothing is passed
    over: it is an error. Size, tiles and every frontier stay; the log goes on."""
    site.record(user_set("gone"))
    site.snapshot()
    site.record(Change(Kind.USER_REMOVED, {"user": "gone"}))
    site.snapshot()
    with site.database.engine.begin() as connection:
        before = [changelog.frontier(connection, at) for at in range(SIZE + 3)]
    least = await site.compaction(ALL_GOES).compact()
    assert least == SIZE + 1
    load(site.snapshots.kept[0], tmp_path / "replica.sqlite")
    replica = opened(tmp_path / "replica.sqlite")
    with site.database.engine.begin() as connection, writing(replica) as other:
        assert [changelog.frontier(connection, at) for at in range(SIZE + 3)] == before
        assert changelog.size(connection) == SIZE + 2
        (entry,) = changelog.entries(connection, least)
        assert changelog.read_raw(connection, least, 1 << 20, 10) == [entry.raw]
        assert queries.user(other, "gone") is not None
        apply(other, entry, Touched())
        assert changelog.append(other, changelog.frontier(other), [entry]) == before[-1]
        assert queries.user(other, "gone") is None
        for after in (0, least - 1):
            with pytest.raises(Compacted) as caught:
                changelog.read_raw(connection, after, 1 << 20, 10)
            assert caught.value.minimum == least
            with pytest.raises(Compacted):
                next(changelog.entries(connection, after))
    replica.dispose()
    site.record(user_set("later"))
    with site.database.engine.begin() as connection:
        assert changelog.size(connection) == SIZE + 3


@pytest_twisted.ensureDeferred
async def test_a_log_without_entries(site: Site) -> None:
    """A log whose entries are all gone has its size, and reading at its head finds nothing."""
    with writing(site.database.engine) as connection:
        assert changelog.remove(connection, SIZE, 15) == 15
        assert changelog.minimum(connection) == 15
        assert changelog.remove(connection, SIZE, 10_000) == SIZE - 15
        assert changelog.remove(connection, SIZE, 10_000) == 0
    with site.database.engine.begin() as connection:
        assert (changelog.size(connection), changelog.minimum(connection)) == (SIZE, SIZE)
        assert changelog.read_raw(connection, SIZE, 1 << 20, 10) == []
        assert list(changelog.entries(connection, SIZE)) == []
        assert queries.head_time(connection) is None
        with pytest.raises(Compacted):
            changelog.read_raw(connection, SIZE - 1, 1 << 20, 10)
    site.record(user_set("later"))
    assert site.minimum() == SIZE


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    with running_node(tmp_path) as made:
        yield made


def forget(node: Node, upto: int) -> None:
    with writing(node.database.engine) as connection:
        changelog.remove(connection, upto, 10_000)


@pytest_twisted.ensureDeferred
async def test_search_notices_that_the_log_is_gone(node: Node) -> None:
    """A search index that is further back than the log reaches is built again, and is whole."""
    node.log(release("before", "1"))
    node.settle()
    await node.search.stop()
    node.log(release("meanwhile", "1"), release("last", "1"))
    forget(node, node.at.serial - 1)
    node.search = node.new_index()
    node.search.start()
    node.settle()
    assert await node.names("before OR meanwhile OR last") == ["before", "last", "meanwhile"]


@pytest_twisted.ensureDeferred
async def test_changes_whose_entries_are_gone(node: Node) -> None:
    """Who copies an index by serials still hears of every project that changed, each with the
    serial of its last change, and goes on with the entries that are there."""
    start = node.at.serial
    node.log(release("a", "1"), release("b", "1"), listed("m"), release("a", "2"))
    forget(node, node.at.serial - 1)
    with node.database.engine.begin() as connection:
        chain: list[Any] = [queries.index_or_404(connection, name) for name in (DEV, PYPI)]
    rows = await changes_since(node.database, chain, start)
    assert [(row[0], row[3], row[4] - start) for row in rows] == [
        ("b", "update", 2), ("m", "update", 3), ("a", "new release", 4),
    ]  # fmt: skip
