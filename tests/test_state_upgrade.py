"""Tables of another version: filled, brought along or refused, and never half of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest
from click.testing import CliRunner
from sqlalchemy import Connection, Engine
from twisted.internet.task import Clock

from cluster.cli.main import main
from cluster.durable import FolderLock
from cluster.errors import UnknownFormat
from cluster.log import changelog
from cluster.log.changes import Kind
from cluster.state import schema, upgrade
from cluster.state.apply import digest
from cluster.state.database import open_engine, writing
from cluster.state.upgrade import CannotReplay, MadeByNewer, bring_up_to_date, version
from primary.snapshots import Snapshots
from tests.fakes import START, as_clock, user_set
from tests.snapshots import make, record_all

ENTRIES = 6


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Engine]:
    """The database of a node with six entries, of this version."""
    engine = open_engine(tmp_path / "log.sqlite", changelog.metadata, durable=False)
    bring_up_to_date(engine)
    record_all(engine, [START, *(user_set(f"user-{n}") for n in range(ENTRIES - 1))])
    yield engine
    engine.dispose()


def run(engine: Engine, *statements: str) -> None:
    """SQL that another version of the program would have run."""
    with writing(engine) as connection:
        for statement in statements:
            connection.exec_driver_sql(statement)


def becomes(engine: Engine, number: int) -> None:
    run(engine, f"PRAGMA user_version={number}")


def is_cut(engine: Engine) -> None:
    run(engine, "DELETE FROM log WHERE serial < 4")


def facts(engine: Engine) -> tuple[int, str, list[str]]:
    """Version, rows, and names of all tables."""
    with engine.begin() as connection:
        names = connection.exec_driver_sql("SELECT name FROM sqlite_master ORDER BY name")
        return version(connection), digest(connection), list(names.scalars())


def test_an_older_version_is_refilled(node: Engine) -> None:
    """With the whole log, rows come from it, whatever the tables were; others are gone."""
    before = facts(node)
    run(node, "DROP TABLE users", "CREATE TABLE users (nick TEXT)", "CREATE TABLE odd (x TEXT)",
        "PRAGMA user_version=1")  # fmt: skip
    bring_up_to_date(node)
    assert facts(node) == before


def test_steps_follow_each_other(node: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows of a log that is cut are brought along step by step, from any version on the way."""
    told: list[int] = []

    def step(number: int) -> Any:
        return lambda connection: told.append(number)

    is_cut(node)
    before = facts(node)
    last = schema.VERSION
    monkeypatch.setattr(upgrade, "MIGRATIONS", {n: step(n) for n in (last - 2, last - 1)})
    for found, expected in ((last - 2, [last - 2, last - 1]), (last - 1, [last - 1]), (last, [])):
        becomes(node, found)
        told.clear()
        bring_up_to_date(node)
        assert told == expected
        assert facts(node) == before


def test_a_step_that_fails(node: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of the steps before it stays."""

    def half(connection: Connection) -> None:
        connection.exec_driver_sql("DELETE FROM users")
        raise OSError("the disk is full")

    is_cut(node)
    becomes(node, schema.VERSION - 1)
    before = facts(node)
    monkeypatch.setattr(upgrade, "MIGRATIONS", {schema.VERSION - 1: half})
    with pytest.raises(OSError, match="full"):
        bring_up_to_date(node)
    assert facts(node) == before


def test_no_step(node: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a step for each version on the way, a log that is cut is refused as it is."""
    is_cut(node)
    becomes(node, schema.VERSION - 2)
    before = facts(node)
    monkeypatch.setattr(upgrade, "MIGRATIONS", {schema.VERSION - 1: lambda connection: None})
    with pytest.raises(CannotReplay, match="begins behind entry 3") as caught:
        bring_up_to_date(node)
    assert "Of a replica, remove log.sqlite" in str(caught.value)
    assert facts(node) == before


def test_made_by_a_newer_one(node: Engine) -> None:
    """What a newer program made is not touched, and the way back depends on the log."""
    becomes(node, schema.VERSION + 1)
    before = facts(node)
    with pytest.raises(MadeByNewer, match=r"or, to go back: `pymirror rebuild`"):
        bring_up_to_date(node)
    is_cut(node)
    with pytest.raises(MadeByNewer, match=r"to go back: a replica .* when log.sqlite is removed"):
        bring_up_to_date(node)
    assert facts(node) == before


REPLACED = "UPDATE log SET entry = CAST(replace(entry, ?, ?) AS BLOB) WHERE serial = ?"


def says(engine: Engine, serial: int, old: str, new: str) -> None:
    """An entry reads otherwise, as another program would have recorded it."""
    with writing(engine) as connection:
        connection.exec_driver_sql(REPLACED, (old, new, serial))
        connection.exec_driver_sql("PRAGMA application_id=7")


@pytest.mark.parametrize(
    ("old", "new", "error"),
    [
        ('"kind":"user.set"', '"kind":"moon.landed"', "entry 6 .* 'moon.landed' is unknown"),
        ('"format":1', '"format":9', "entry 6 .* format 9 of user.set is unknown"),
    ],
)
def test_kinds_of_a_newer_one(node: Engine, old: str, new: str, error: str) -> None:
    """A log with a kind or a format of a newer program is refused by name, also one that is cut,
    and taken when the entry is gone."""
    says(node, ENTRIES, old, new)
    with pytest.raises(UnknownFormat, match=error):
        bring_up_to_date(node)
    is_cut(node)
    with pytest.raises(UnknownFormat, match=error):
        bring_up_to_date(node)
    says(node, ENTRIES, new, old)
    bring_up_to_date(node)


def test_the_log_is_read_once(node: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only a program with other kinds than the last one looks through the log for news."""
    bring_up_to_date(node)
    monkeypatch.setattr(upgrade, "_KINDS", "no SQL at all")
    bring_up_to_date(node)
    monkeypatch.setattr(upgrade, "FORMAT", {Kind.USER_SET: 2})
    with pytest.raises(Exception, match="syntax error"):
        bring_up_to_date(node)


def rebuild(folder: Path) -> tuple[int, str]:
    ran = CliRunner().invoke(main, ["rebuild", "--state-dir", str(folder)])
    return ran.exit_code, ran.output


def test_rebuild_goes_back(node: Engine, tmp_path: Path) -> None:
    """`pymirror rebuild` makes this version's tables of a newer program's, and says so."""
    before = facts(node)
    run(node, "CREATE TABLE tidings (x TEXT)", "DROP TABLE docs", "PRAGMA user_version=99")
    code, said = rebuild(tmp_path)
    assert code == 0
    assert f"the state had been of version 99, it is of {schema.VERSION} now" in said
    assert facts(node) == before
    bring_up_to_date(node)


def test_rebuild_refuses(node: Engine, tmp_path: Path) -> None:
    """It leaves a running node's folder, a part of a log and unknown entries alone, and says so."""
    before = facts(node)
    lock = FolderLock(tmp_path)
    assert rebuild(tmp_path) == (
        1,
        f"Error: {tmp_path} is in use by another process: stop it first\n",
    )
    lock.release()
    says(node, ENTRIES, '"user.set"', '"moon.landed"')
    code, said = rebuild(tmp_path)
    assert (code, "'moon.landed' is unknown: upgrade this node" in said) == (1, True)
    is_cut(node)
    code, said = rebuild(tmp_path)
    assert (code, "begins behind entry 3" in said) == (1, True)
    assert facts(node) == before


class At:
    """A position: as much of one as a decision about snapshots looks at."""

    serial = ENTRIES


@pytest.mark.parametrize(("made", "due"), [(schema.VERSION, False), (schema.VERSION - 1, True)])
def test_snapshots_of_another_version(
    node: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, made: int, due: bool
) -> None:
    """A primary whose tables have changed makes a snapshot at once: nobody can load the others."""
    with monkeypatch.context() as other:
        other.setattr(schema, "VERSION", made)
        old = make(node, tmp_path / "snapshots")
    nothing: Any = None
    snapshots = Snapshots(
        nothing, cast(Any, At()), nothing, nothing, nothing, tmp_path, nothing,
        as_clock(Clock()), every=ENTRIES, require_owner=lambda: None, kept=[old],
    )  # fmt: skip
    assert snapshots.is_due is due
    assert snapshots.newest == (None if due else ENTRIES)
