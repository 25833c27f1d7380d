"""A replica's commits: seen at once, told of only when the disk has kept them."""

from __future__ import annotations

from pathlib import Path

import pytest
import pytest_twisted

from cluster.errors import NotDurable
from cluster.state import database as module
from cluster.state.database import Database
from cluster.threads import Inline
from replica.following import State
from tests.fakes import engine, user_set
from tests.test_follower import following, log_of


@pytest_twisted.ensureDeferred
async def test_a_poll_follows_the_sync(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Readers have an entry before it is durable; no poll claims it before."""
    events: list[str] = []
    async with following(tmp_path, log_of("ann")) as it:
        await it.in_sync()

        def sync(path: Path, known: int | None) -> int:
            events.append(f"sync {it.position.serial}, {len(it.primary.polls)} polls")
            return 1

        monkeypatch.setattr(module, "_sync", sync)
        it.database.wal = tmp_path / "log.sqlite-wal"
        before = len(it.primary.polls)
        it.primary.record(user_set("bob"))
        await it.in_sync()
        assert events == [f"sync 3, {before} polls"]
        assert it.primary.polls[before].args[b"from"] == [b"3"]


@pytest_twisted.ensureDeferred
async def test_a_disk_that_lost_something(tmp_path: Path) -> None:
    """After a failed fsync a replica serves what it has, and claims and follows nothing more."""
    async with following(tmp_path, log_of("ann")) as it:
        await it.in_sync()
        it.database.wal = tmp_path / "no-file"
        it.database.wal.mkdir()
        before = len(it.primary.polls)
        it.primary.record(user_set("bob"))
        await it.failed()
        assert it.position.serial == 3
        it.database.wal.rmdir()
        it.retry()
        await it.failed(times=2)
        assert it.state is State.DISK_FAILED
        assert "restart" in str(it.follower.following.last_error)
        assert len(it.primary.polls) == before


@pytest_twisted.ensureDeferred
async def test_sync(tmp_path: Path) -> None:
    """A database without a write-ahead log has nothing to sync; a new log's name is synced too."""
    with engine() as made:
        wal = tmp_path / "log.sqlite-wal"
        database = Database(made, Inline(), Inline(), wal)
        await database.make_durable()
        wal.write_bytes(b"frames")
        await database.make_durable()
        assert database._synced == wal.stat().st_ino
        wal.unlink()
        wal.mkdir()
        with pytest.raises(NotDurable, match="restart"):
            await database.make_durable()
        wal.rmdir()
        wal.write_bytes(b"frames")
        with pytest.raises(NotDurable, match="restart"):
            await database.make_durable()
