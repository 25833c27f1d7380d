"""Taking back the end of a log: what is left is what a shorter log would have been."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine

from cluster.errors import LogError
from cluster.log import changelog
from cluster.log.changes import Change
from cluster.log.epochs import Start
from cluster.log.merkle import Frontier
from cluster.promotion import IDENTITY_FILE, demote, opened, standing
from cluster.rollback import roll_back
from cluster.state.apply import apply, digest
from cluster.state.database import open_engine, writing
from cluster.state.rows import Touched
from cluster.state.upgrade import bring_up_to_date
from replica.loading import remove_old
from tests.fakes import LOG, START, engine, entries, user_set


def users(count: int) -> list[Change]:
    """A log with an epoch and some users."""
    return [START, *(user_set(f"user{number}") for number in range(count - 1))]


def record(of: Engine, changes: list[Change]) -> None:
    with writing(of) as connection:
        made = entries(changes)
        for entry in made:
            apply(connection, entry, Touched())
        changelog.append(connection, Frontier(), made)


@settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.integers(2, 700), st.integers(1, 700))
def test_as_if_it_had_never_been(tmp_path: Path, count: int, size: int) -> None:
    """Root, tiles and state are those of a log that ended there; what was behind is in the file."""
    size = min(size, count)
    with engine() as cut, engine() as short:
        record(cut, users(count))
        record(short, users(size))
        (tmp_path / f"orphaned-1-{size}.log").unlink(missing_ok=True)
        with writing(cut) as connection:
            kept = roll_back(connection, size, tmp_path)
        with cut.begin() as one, short.begin() as other:
            assert changelog.frontier(one) == changelog.frontier(other)
            assert digest(one) == digest(other)
            for level in range(3):
                for number in range(4):
                    tiles = [changelog.tile(c, level, number) for c in (one, other)]
                    assert tiles[0] == tiles[1]
        if size == count:
            assert kept is None
        else:
            assert kept is not None
            lines = kept.read_bytes().splitlines()
            assert lines == [entry.raw for entry in entries(users(count))[size:]]


def test_not_even_the_beginning(tmp_path: Path) -> None:
    """A log of which nothing is common is another log."""
    with engine() as of:
        record(of, users(3))
        with writing(of) as connection, pytest.raises(LogError):
            roll_back(connection, 0, tmp_path)


def folder_of(tmp_path: Path, count: int) -> Path:
    """The folder of a stopped primary."""
    made = open_engine(tmp_path / "log.sqlite", changelog.metadata)
    bring_up_to_date(made)
    record(made, users(count))
    made.dispose()
    return tmp_path


def fork_at(of: Engine, serial: int) -> Start:
    with of.begin() as connection:
        root = changelog.frontier(connection, serial - 1).root
    return Start(2, serial, "", "", "", root)


def test_demotion(tmp_path: Path) -> None:
    """A demoted folder holds the common log, and says which one it is."""
    with opened(folder_of(tmp_path, 20)) as of:
        kept = demote(tmp_path, of, fork_at(of, 11))
        assert standing(of).serial == 10
    assert kept is not None
    assert len(kept.read_bytes().splitlines()) == 10
    assert LOG in (tmp_path / IDENTITY_FILE).read_text()


def test_demotion_of_another_history(tmp_path: Path) -> None:
    """A fork that does not continue what is here changes nothing."""
    with opened(folder_of(tmp_path, 20)) as of:
        stranger = Start(2, 11, "", "", "", bytes(32))
        with pytest.raises(LogError, match="differ"):
            demote(tmp_path, of, stranger)
        assert standing(of).serial == 20
    assert not list(tmp_path.glob("orphaned-*"))


def test_demotion_of_a_compacted_log(tmp_path: Path) -> None:
    """Where the state cannot be replayed, the folder begins anew, and loses nothing."""
    with opened(folder_of(tmp_path, 20)) as of:
        with writing(of) as connection:
            changelog.remove(connection, 5, 100)
        kept = demote(tmp_path, of, fork_at(of, 11))
    assert kept is not None
    assert len(kept.read_bytes().splitlines()) == 10
    assert not (tmp_path / "log.sqlite").exists()
    remove_old(tmp_path)
    assert (tmp_path / "epoch-1.sqlite").exists(), "also when the replica tidies up"
    assert LOG in (tmp_path / IDENTITY_FILE).read_text()
