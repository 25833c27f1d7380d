"""The log on the database: gapless, tiles whatever the batching, pages that end between groups."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine, select

from cluster.errors import LogError
from cluster.log import changelog
from cluster.log.changes import Change, Entry, Kind
from cluster.log.merkle import TILE_WIDTH, Frontier, leaf_hash
from tests.fakes import engine, entries, entry, user_set


def some(count: int, start: int = 1) -> list[Entry]:
    return entries([user_set(f"user{n}") for n in range(start, start + count)], start)


def group(start: int, parts: int, size: int = 0) -> list[Entry]:
    """A change in numbered parts, padded to at least `size` bytes each."""
    payload = {"index": "root/pypi", "project": "foo", "parts": parts, "pad": "x" * size}
    changes = [Change(Kind.MIRROR_PROJECT, {**payload, "part": n}) for n in range(1, parts + 1)]
    return entries(changes, start)


def append(of: Engine, *batches: list[Entry]) -> Frontier:
    with of.begin() as connection:
        frontier = changelog.frontier(connection)
        for batch in batches:
            frontier = changelog.append(connection, frontier, batch)
    return frontier


def tiles(of: Engine) -> list[tuple[int, int, bytes]]:
    table = changelog.tiles
    with of.begin() as connection:
        rows = connection.execute(select(table).order_by(table.c.level, table.c.number))
        return [(row.level, row.number, row.hashes) for row in rows]


def page(of: Engine, after: int, max_bytes: int, max_entries: int, until: int | None = None,
         ) -> list[bytes]:  # fmt: skip
    with of.begin() as connection:
        return changelog.read_raw(connection, after, max_bytes, max_entries, until)


def test_what_is_appended_is_read() -> None:
    """Entries come back as the same bytes, in order, from any place."""
    log = some(10)
    with engine() as of:
        append(of, log[:4], log[4:])
        with of.begin() as connection:
            assert list(changelog.entries(connection, batch=3)) == log
            assert list(changelog.entries(connection, after=7)) == log[7:]
            assert changelog.size(connection) == 10
        assert page(of, 4, 1 << 20, 100) == [e.raw for e in log[4:]]
        assert page(of, 4, 1 << 20, 100, until=6) == [e.raw for e in log[4:6]]
        assert page(of, 10, 1 << 20, 100) == []


def test_empty_log() -> None:
    """A new database has the log of size 0."""
    with engine() as of, of.begin() as connection:
        assert changelog.size(connection) == 0
        assert changelog.frontier(connection) == Frontier()
        assert changelog.append(connection, Frontier(), []) == Frontier()


@pytest.mark.parametrize("serials", [[2], [1, 3], [1, 1], [2, 1], [1, 2, 4]])
def test_gaps_are_refused(serials: list[int]) -> None:
    """An entry whose serial is not its place is refused, and nothing of its batch is stored."""
    batch = [entry(serial, user_set("ann")) for serial in serials]
    with engine() as of:
        with pytest.raises(LogError, match="was expected"):
            append(of, batch)
        assert page(of, 0, 1 << 20, 100) == []
        assert tiles(of) == []


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(1, 300), min_size=1, max_size=6))
def test_batching_does_not_matter(sizes: list[int]) -> None:
    """The tiles are the same whether a log was appended in one batch or in many."""
    total = sum(sizes)
    log = some(total)
    batches, at = [], 0
    for size in sizes:
        batches.append(log[at : at + size])
        at += size
    with engine() as one, engine() as many:
        assert append(one, log) == append(many, *batches)
        assert tiles(one) == tiles(many)


def test_tiles_over_three_levels() -> None:
    """A log of more than 256² entries has tiles at three levels, and every root from them."""
    count = TILE_WIDTH * TILE_WIDTH + TILE_WIDTH + 3
    log = some(count)
    with engine() as of:
        frontier = append(of, log[:1_000], log[1_000:])
        rows = {(level, number): hashes for level, number, hashes in tiles(of)}
        assert max(level for level, _ in rows) == 2
        assert len(rows[0, TILE_WIDTH + 1]) == 3 * 32
        wanted = {1, 255, 256, 257, 65_535, 65_536, 65_537, count - 1, count}
        now = Frontier()
        with of.begin() as connection:
            for size, one in enumerate(log, start=1):
                now = now.extended([leaf_hash(one.raw)])
                if size in wanted:
                    assert changelog.frontier(connection, size) == now
            assert changelog.frontier(connection) == frontier == now


def test_page_limits() -> None:
    """A page stays within bytes and entries, but has at least one entry."""
    log = some(10)
    size = len(log[0].raw)
    with engine() as of:
        append(of, log)
        assert len(page(of, 0, 1 << 20, 3)) == 3
        assert len(page(of, 0, size * 2, 100)) == 2
        assert len(page(of, 0, 1, 100)) == 1


def test_a_page_never_ends_inside_a_group() -> None:
    """A page that would end inside a group ends before it, or takes all of it."""
    log = [*some(3), *group(4, 5, 100), *some(2, 9)]
    with engine() as of:
        append(of, log)
        for max_entries in range(1, 12):
            expected = max_entries if max_entries < 3 else 3 if max_entries < 8 else max_entries
            assert len(page(of, 0, 1 << 20, max_entries)) == min(expected, len(log))
        assert len(page(of, 3, 1, 1)) == 5
        assert len(page(of, 3, 1 << 20, 6)) == 6


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(1, 6), min_size=1, max_size=15),
    st.integers(1, 2_000),
    st.integers(1, 12),
)
def test_pages_make_the_whole_log(parts: list[int], max_bytes: int, max_entries: int) -> None:
    """Page after page is the whole log, each within its bounds or a single group."""
    log: list[Entry] = []
    for count in parts:
        log += some(1, len(log) + 1) if count == 1 else group(len(log) + 1, count, 50)
    with engine() as of:
        append(of, log)
        seen: list[bytes] = []
        while len(seen) < len(log):
            got = page(of, len(seen), max_bytes, max_entries)
            assert got
            whole = log[len(seen) : len(seen) + len(got)]
            assert whole[-1].ends_group
            fits = len(got) <= max_entries and sum(map(len, got)) <= max_bytes
            assert fits or sum(e.ends_group for e in whole) == 1
            seen += got
        assert seen == [e.raw for e in log]


def test_text_that_looks_like_a_group() -> None:
    """A value that spells the marker of a group is not taken for one."""
    log = entries([user_set("ann", title='"parts":', custom={"parts": 3})] * 3)
    with engine() as of:
        append(of, log)
        assert len(page(of, 0, 1 << 20, 2)) == 2
