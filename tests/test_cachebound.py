"""The cache keeps within its bound, and takes only what can be had again."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import pytest_twisted

from cluster.errors import InvalidRequest
from cluster.files.cachebound import YOUNG_SECONDS
from cluster.sizes import parse_size
from tests.fakes import NOW
from tests.indexed import DEV, OTHER
from tests.keeping_site import sha256, site, uploaded

OLD = YOUNG_SECONDS + 10


@pytest_twisted.ensureDeferred
async def test_what_was_used_longest_ago_goes_first(tmp_path: Path) -> None:
    """Above the bound the coldest files go, one by one, until it is kept."""
    async with site(tmp_path, cache_bytes=2_500) as it:
        it.start()
        names = [await it.add(bytes([n]) * 1_000) for n in range(4)]
        it.pass_time(OLD)
        it.pass_time(OLD)
        assert [it.has(name) for name in names] == [False, False, True, True]
        document = it.keeping.document()["cache"]
        assert document == {
            "limit_bytes": 2_500, "used_bytes": 2_000, "evicted": 2, "evicted_bytes": 2_000,
        }  # fmt: skip
        assert (it.store.counters.count, it.store.counters.bytes) == (2, 2_000)


@pytest_twisted.ensureDeferred
async def test_a_use_keeps_a_file(tmp_path: Path) -> None:
    """A file that was asked for is younger than one that came later."""
    async with site(tmp_path, cache_bytes=1_500) as it:
        it.start()
        first = await it.add(b"1" * 1_000)
        it.pass_time(20)
        second = await it.add(b"2" * 1_000)
        it.pass_time(20)
        assert await it.store.size_of(first) == 1_000
        it.pass_time(OLD - 20)
        assert (it.has(first), it.has(second)) == (True, False)


@pytest_twisted.ensureDeferred
async def test_nothing_young_and_nothing_in_use_goes(tmp_path: Path) -> None:
    """Not within a minute of its last use, and not while it is being sent, however long."""
    async with site(tmp_path, cache_bytes=0) as it:
        it.start()
        name = await it.add(b"1" * 1_000)
        it.pass_time(YOUNG_SECONDS - 5)
        assert it.has(name)
        with it.store.using(name):
            it.pass_time(10 * OLD)
            assert it.has(name)
        it.pass_time(YOUNG_SECONDS - 5)
        assert it.has(name)
        it.pass_time(OLD)
        assert not it.has(name)


@pytest_twisted.ensureDeferred
async def test_uploads_that_are_kept_never_go(tmp_path: Path) -> None:
    """What this node keeps is neither counted nor taken, also if it was fetched."""
    async with site(tmp_path, cache_bytes=0, kept=lambda index: index == DEV) as it:
        it.can_return = True
        mine, theirs, mirrored = b"m" * 1_000, b"t" * 1_000, b"x" * 1_000
        it.start()
        names = [await it.add(data) for data in (mine, theirs, mirrored)]
        it.node.log(uploaded("mine", mine), uploaded("theirs", theirs, OTHER))
        it.pass_time(2 * OLD)
        assert [it.has(name) for name in names] == [True, False, False]
        assert it.keeping.bound.used_bytes == 0


@pytest_twisted.ensureDeferred
async def test_uploads_stay_while_nobody_can_return_them(tmp_path: Path) -> None:
    """A lazy replica whose primary is away gives up mirrored files alone; when the primary is
    back, uploads too, and they count as missing then.
    """
    async with site(tmp_path, cache_bytes=0, kept=False) as it:
        it.start()
        upload, mirrored = await it.add(b"u" * 1_000), await it.add(b"m" * 1_000)
        it.node.log(uploaded("one", b"u" * 1_000))
        it.pass_time(2 * OLD)
        assert (it.has(upload), it.has(mirrored)) == (True, False)
        assert it.keeping.hosted.missing == 0
        it.can_return = True
        it.pass_time(2 * OLD)
        assert not it.has(upload)
        assert it.keeping.hosted.missing == 1


@pytest_twisted.ensureDeferred
async def test_an_upload_that_is_not_logged_yet_stays(tmp_path: Path) -> None:
    """Bytes that came by an upload, or that one claims, are nobody's cache before their entry."""
    async with site(tmp_path, cache_bytes=0) as it:
        it.start()
        coming = await it.add(b"c" * 1_000, fetched=False)
        claimed = await it.add(b"d" * 1_000)
        it.store.claim(claimed)
        it.pass_time(3 * OLD)
        assert it.has(coming)
        assert it.has(claimed)


@pytest_twisted.ensureDeferred
async def test_a_file_that_went_is_not_remembered(tmp_path: Path) -> None:
    """The store forgets the size of what was taken away, and takes it again."""
    async with site(tmp_path, cache_bytes=0) as it:
        it.start()
        name = await it.add(b"1" * 1_000)
        it.pass_time(2 * OLD)
        assert await it.store.size_of(name) is None
        assert await it.add(b"1" * 1_000) == name
        assert await it.store.size_of(name) == 1_000
        assert it.keeping.bound.evicted == 1


@pytest_twisted.ensureDeferred
async def test_strangers_are_accounted_for(tmp_path: Path) -> None:
    """Files of an earlier version become cache a day after they were written, and what is gone
    leaves the account.
    """
    async with site(tmp_path, cache_bytes=0) as it:
        name, gone = await it.add(b"1" * 1_000), sha256(b"2")
        it.keeping.ledger.added(gone, 1, fetched=True)
        await it.keeping.ledger.flush()
        os.utime(it.store.path(name), (NOW - 90_000, NOW - 90_000))
        it.clock.advance(1)
        it.start()
        it.pass_time(2 * OLD)
        assert not it.has(name)
        assert it.keeping.bound.evicted == 1


@pytest_twisted.ensureDeferred
async def test_a_file_of_the_first_second_is_cache(tmp_path: Path) -> None:
    """What arrives while the disk is first looked through is what its arrival said it is."""
    async with site(tmp_path, cache_bytes=0) as it:
        fetched = await it.add(b"1" * 1_000)
        coming = await it.add(b"2" * 1_000, fetched=False)
        it.start()
        it.keeping.ledger.added(fetched, 1_000, fetched=True)
        it.keeping.ledger.added(coming, 1_000, fetched=False)
        await it.add(b"3" * 1_000)
        it.pass_time(2 * OLD)
        assert (it.has(fetched), it.has(coming)) == (False, True)


def test_sizes() -> None:
    """Decimal and binary units; nonsense is refused."""
    assert parse_size("50GB") == 50 * 10**9
    assert parse_size("1.5MiB") == 3 << 19
    assert parse_size("1000") == 1000
    with pytest.raises(InvalidRequest, match="any disk"):
        parse_size("20000000TB")
    assert parse_size("10 k") == 10_000
    for bad in ("", "GB", "-1", "1e9", "5 apples", "1.0.0"):
        with pytest.raises(InvalidRequest):
            parse_size(bad)
