"""The power goes off while a state of another version is brought along: the next start does it
again, and the log, its root and the rows are what they would have been.
"""

from __future__ import annotations

import shutil
import tarfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from sqlite3 import connect

import pytest
from attrs import frozen
from sqlalchemy import create_engine

from cluster.log import changelog
from cluster.state import schema, upgrade
from cluster.state.apply import digest
from tests.functional.crashing import SOAK, copied, ended_by, start_points
from tests.functional.cutting import DURABLE, NEVER, Site, site
from tests.make_released import RELEASED
from tests.nextversion import TABLES, next_version
from tests.processes import Node, free_port
from tests.strace import require_strace, spread

pytestmark = [pytest.mark.functional, pytest.mark.slow, pytest.mark.timeout(3_600 if SOAK else 400)]

OLDER = (
    "DROP TABLE users", "CREATE TABLE users (nick TEXT)", "CREATE TABLE odd (x TEXT)",
    "PRAGMA user_version=1",
)  # fmt: skip
"""Makes tables of this version those of one that nobody has written."""


def make_older(folder: Path) -> None:
    """Give a stopped node the tables of a version that nobody knows."""
    with closing(connect(folder / "log.sqlite")) as database:
        for statement in OLDER:
            database.execute(statement)


@frozen
class Held:
    """What a stopped node's database holds: of which version, the log's root, the rows' digest
    (None for tables of a version that is not `expected`).
    """

    version: int
    root: bytes
    rows: str | None


def held(folder: Path, expected: int) -> Held:
    """What is there now."""
    made = create_engine(f"sqlite:///{folder / 'log.sqlite'}")
    try:
        with made.begin() as connection:
            found = upgrade.version(connection)
            rows = digest(connection) if found == expected else None
            return Held(found, changelog.frontier(connection).root, rows)
    finally:
        made.dispose()


@pytest.fixture
def where(tmp_path: Path) -> Iterator[Site]:
    """A disk with the folders that a released version wrote."""
    require_strace()
    with site(tmp_path) as made:
        with tarfile.open(sorted(RELEASED.glob("*.tar.xz"))[-1]) as tar:
            tar.extractall(made.disk.place, filter="data")
        shutil.move(made.disk.place / "secret", made.beside.secret_file)
        yield made


def test_refilled(where: Site) -> None:
    """From the whole log."""
    node = where.node(
        "whole", "pymirror-replica", "--primary-url", f"http://127.0.0.1:{free_port()}"
    )
    before = held(node.state_dir, schema.VERSION)
    make_older(node.state_dir)
    _brought_along(where, node, Held(1, before.root, None), before)


def test_step(where: Site, tmp_path: Path) -> None:
    """By a step, where the log is cut."""
    node = where.node("primary", "pymirror-primary", "--no-root-pypi")
    node.packages = next_version(tmp_path, tables=True)
    before = held(node.state_dir, schema.VERSION)
    after = Held(TABLES, before.root, before.rows)
    _brought_along(where, node, Held(before.version, before.root, None), after)
    with closing(connect(node.state_dir / "log.sqlite")) as database:
        assert database.execute("SELECT count(*) FROM tidings").fetchone() == (0,)


def _brought_along(where: Site, node: Node, before: Held, after: Held) -> None:
    saved = copied(node.state_dir, where.beside.directory / "saved")
    where_to = start_points(node, where.trace, "log.sqlite", DURABLE)
    kills, old = 0, 0
    for point in [*(where_to if SOAK else spread(where_to, 4)), NEVER]:
        copied(saved, node.state_dir)
        where.disk.settle()
        kills += ended_by(node, point.inject("signal=SIGKILL"), where.trace)
        where.disk.cut()
        found = held(node.state_dir, after.version)
        assert found in (before, after), point
        old += found == before
        node.start()
        node.kill()
        assert held(node.state_dir, after.version) == after, point
    assert kills >= 2, "the points are not where the work is"
    assert old, "nothing was on the way when the power went off"
