"""A replica's commits: seen at once, told of only when the disk has kept them."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import pytest_twisted
from attrs import define
from sqlalchemy import Engine, text

from cluster.errors import NotDurable
from cluster.state.database import open_engine
from cluster.state.wal import WriteAheadLog
from replica.following import State
from tests.fakes import user_set
from tests.test_follower import following, log_of


@define(eq=False)
class Told(WriteAheadLog):
    """A log that tells of each sync."""

    synced: Callable[[], None] = lambda: None

    def sync(self) -> None:
        self.synced()


def fails(_: int) -> None:
    """What the kernel answers when the disk has lost something."""
    raise OSError(errno.EIO, "the disk is broken")


def write(made: Engine) -> None:
    with made.begin() as connection:
        connection.execute(text("INSERT INTO things VALUES (1)"))


def a_database(path: Path) -> Engine:
    """One with a table and a commit that is not fsynced."""
    made = open_engine(path, durable=False)
    with made.begin() as connection:
        connection.execute(text("CREATE TABLE things (number INTEGER)"))
    return made


@pytest_twisted.ensureDeferred
async def test_a_poll_follows_the_sync(tmp_path: Path) -> None:
    """Readers have an entry before it is durable; no poll claims it before."""
    events: list[str] = []
    async with following(tmp_path, log_of("ann")) as it:
        await it.in_sync()

        def synced() -> None:
            events.append(f"sync {it.position.serial}, {len(it.primary.polls)} polls")

        it.database.wal = Told(tmp_path / "log.sqlite", synced=synced)
        before = len(it.primary.polls)
        it.primary.record(user_set("bob"))
        await it.in_sync()
        assert events == [f"sync 3, {before} polls"]
        assert it.primary.polls[before].args[b"from"] == [b"3"]


@pytest_twisted.ensureDeferred
async def test_a_disk_that_lost_something(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a failed fsync a replica serves what it has, and claims and follows nothing more."""
    made = a_database(tmp_path / "log.sqlite")
    async with following(tmp_path, log_of("ann")) as it:
        await it.in_sync()
        it.database.wal = WriteAheadLog(tmp_path / "log.sqlite")
        before = len(it.primary.polls)
        with monkeypatch.context() as broken:
            broken.setattr(os, "fsync", fails)
            it.primary.record(user_set("bob"))
            await it.failed()
        assert it.position.serial == 3
        it.retry()
        await it.failed(times=2)
        assert it.state is State.DISK_FAILED
        assert "restart" in str(it.follower.following.last_error)
        assert len(it.primary.polls) == before
        it.database.wal.close()
    made.dispose()


def test_the_log_that_is_synced(tmp_path: Path) -> None:
    """It is that of the file which SQLite has open: behind the link that a start from a snapshot
    makes, and changes."""
    link, wal = tmp_path / "log.sqlite", WriteAheadLog(tmp_path / "log.sqlite")
    wal.sync()  # there is nothing yet
    for name in ("log.sqlite", "log-a1.sqlite", "log-b2.sqlite"):
        link.unlink(missing_ok=True)
        if name != link.name:
            link.symlink_to(name)
        made = a_database(link)
        for _ in range(2):
            write(made)
            wal.sync()
        assert os.readlink(f"/proc/self/fd/{wal._file}") == str(tmp_path / f"{name}-wal")
        made.dispose()
    wal.sync()  # the last connection has removed it
    assert wal._file is None


def test_a_failure_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sync that succeeds after one that failed is not believed."""
    made, wal = a_database(tmp_path / "log.sqlite"), WriteAheadLog(tmp_path / "log.sqlite")
    wal.sync()
    with monkeypatch.context() as broken:
        broken.setattr(os, "fsync", fails)
        with pytest.raises(NotDurable, match="the disk is broken; mend the disk, then restart"):
            wal.sync()
    with pytest.raises(NotDurable, match="restart"):
        wal.sync()
    wal.close()
    made.dispose()
