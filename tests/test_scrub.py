"""Files are re-hashed over and over; what is damaged goes aside and comes again."""

from __future__ import annotations

from pathlib import Path

import pytest_twisted

from cluster.files import scrub
from cluster.files.scrub import ROUND_SECONDS, quarantined
from tests.keeping_site import Keeping, site

DATA = b"d" * 10_000


def damage(it: Keeping, name: str) -> None:
    path = it.store.path(name)
    path.chmod(0o644)
    path.write_bytes(b"!" + path.read_bytes()[1:])


@pytest_twisted.ensureDeferred
async def test_damage_is_found_and_mended(tmp_path: Path) -> None:
    """A file that is not what its name says is not served any more, and fetched from others."""
    async with site(tmp_path, scrub_rate=1 << 20) as it:

        async def again(name: str, size: int) -> None:
            assert size == len(DATA)
            assert await it.store.size_of(name) is None
            await it.add(DATA)

        it.again = again
        name = await it.add(DATA)
        it.start()
        it.pass_time(5)
        damage(it, name)
        it.clock.advance(ROUND_SECONDS)
        it.pass_time(70)
        assert it.store.path(name).read_bytes() == DATA
        document = it.keeping.document()["scrub"]
        assert (document["damaged"], document["mended"], document["unmended"]) == (1, 1, [])
        assert document["hint"] is None
        assert [path.name for path in quarantined(it.store)] == [name]


@pytest_twisted.ensureDeferred
async def test_what_nobody_has_is_shown(tmp_path: Path) -> None:
    """Status says since when a file is damaged and what to do, and asks again until it is back."""
    async with site(tmp_path, scrub_rate=1 << 20) as it:
        name = await it.add(DATA)
        it.start()
        it.pass_time(5)
        damage(it, name)
        it.clock.advance(ROUND_SECONDS)
        it.pass_time(130)
        document = it.keeping.document()["scrub"]
        [row] = document["unmended"]
        assert (row["sha256"], row["bytes"]) == (name, len(DATA))
        assert row["since"]
        assert "quarantine" in document["hint"]
        assert len(it.asked) >= 2
        await it.add(DATA)  # an operator has put it back
        it.pass_time(130)
        assert it.keeping.document()["scrub"]["unmended"] == []
        assert (await scrub.status(it.keeping.ledger))["damaged"] == []


@pytest_twisted.ensureDeferred
async def test_oldest_first_at_the_rate(tmp_path: Path) -> None:
    """Files wait their turn by the date of their last scrub, and take as long as the rate says."""
    async with site(tmp_path, scrub_rate=1_000) as it:
        it.start()
        first = await it.add(b"1" * 5_000)
        it.pass_time(100)
        second = await it.add(b"2" * 5_000)
        assert it.keeping.scrub.checked == 0, "what has just arrived was hashed then"
        it.clock.advance(ROUND_SECONDS - 100)
        it.pass_time(70)
        assert (it.keeping.scrub.checked, it.keeping.scrub.checked_bytes) == (1, 5_000)
        dates = dict(await it.local.read(scrub_dates))
        assert dates[first] > dates[second]
        it.pass_time(200)
        assert it.keeping.scrub.checked == 2
        since = (await scrub.status(it.keeping.ledger))["complete_since"]
        assert since is not None
        assert since >= dates[first]


def scrub_dates(connection: object) -> list[tuple[str, float]]:
    from sqlalchemy import Connection, select

    from cluster.files.ledger import table

    assert isinstance(connection, Connection)
    rows = connection.execute(select(table.c.sha256, table.c.scrubbed_at))
    return [(row.sha256, row.scrubbed_at) for row in rows]


@pytest_twisted.ensureDeferred
async def test_no_rate_means_never(tmp_path: Path) -> None:
    """With a rate of 0 nothing is read."""
    async with site(tmp_path, scrub_rate=0) as it:
        name = await it.add(DATA)
        it.start()
        damage(it, name)
        it.clock.advance(2 * ROUND_SECONDS)
        it.pass_time(100)
        assert it.keeping.scrub.checked == 0


@pytest_twisted.ensureDeferred
async def test_a_file_that_somebody_removed(tmp_path: Path) -> None:
    """A file that is not there any more is no damage; the store forgets it."""
    async with site(tmp_path, scrub_rate=1 << 20) as it:
        name = await it.add(DATA)
        it.start()
        it.pass_time(5)
        it.store.path(name).unlink()
        it.clock.advance(ROUND_SECONDS)
        it.pass_time(70)
        assert it.keeping.scrub.damaged == 0
        assert await it.store.size_of(name) is None
