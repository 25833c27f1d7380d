"""The tables of triggers in local.sqlite, and the values that their rows are."""

from __future__ import annotations

from typing import Any

from attrs import frozen
from sqlalchemy import (
    Column,
    ColumnElement,
    Connection,
    Float,
    Integer,
    MetaData,
    Table,
    Text,
    func,
    select,
)

from primary.triggers.events import Target

metadata = MetaData()

place = Table(
    "trigger_position",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("serial", Integer, nullable=False),
)

targets = Table(
    "trigger_targets",
    metadata,
    Column("index_name", Text, primary_key=True),
    Column("target", Text, primary_key=True),
    Column("url", Text, nullable=False),
    Column("secrets", Text),  # the sha256 of the node-only blob, from the same entry as the URL
    Column("position", Integer, nullable=False),
    Column("dropped", Integer, nullable=False, default=0),
    Column("last_success", Float),
    Column("last_error", Text),
    Column("failing_since", Float),
)

queue = Table(
    "trigger_queue",
    metadata,
    Column("index_name", Text, primary_key=True),
    Column("target", Text, primary_key=True),
    Column("serial", Integer, primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("source", Integer, nullable=False),
    Column("queued_at", Float, nullable=False),
    sqlite_with_rowid=False,
)

# What waits in a stage until the stage is published or dropped.
held = Table(
    "trigger_held",
    metadata,
    Column("index_name", Text, primary_key=True),
    Column("stage", Text, primary_key=True),
    Column("source", Integer, primary_key=True),
    Column("kind", Text, nullable=False),
    sqlite_with_rowid=False,
)


@frozen
class Key:
    """One target of one index."""

    index: str
    target: Target

    def __str__(self) -> str:
        return f"the {self.target} of {self.index}"


@frozen
class Setting:
    """Where a target is, and the blob with its secrets, both as one entry set them."""

    url: str
    secrets: str | None


@frozen
class State:
    """How one target does. `position` is the serial of what it was last told (or spared);
    times are seconds since 1970."""

    setting: Setting
    position: int
    pending: int
    dropped: int
    last_success: float | None
    last_error: str | None
    failing_since: float | None


@frozen
class Item:
    """Something to tell: the entry `source`, which counts since the entry `serial`."""

    serial: int
    number: int
    source: int


def of(table: Table, key: Key) -> tuple[ColumnElement[Any], ...]:
    """The condition for one target's rows."""
    return (table.c.index_name == key.index, table.c.target == key.target.value)


def targets_of(connection: Connection, index: str) -> list[Target]:
    """The targets of an index."""
    statement = select(targets.c.target).where(targets.c.index_name == index)
    return [Target(name) for name in connection.execute(statement).scalars()]


def keys(connection: Connection) -> list[Key]:
    """Every target."""
    rows = connection.execute(select(targets.c.index_name, targets.c.target))
    return [Key(row.index_name, Target(row.target)) for row in rows]


def state(connection: Connection, key: Key) -> State | None:
    """How a target does; None when there is none (any more)."""
    row = connection.execute(select(targets).where(*of(targets, key))).first()
    if row is None:
        return None
    pending = connection.execute(
        select(func.count()).select_from(queue).where(*of(queue, key))
    ).scalar_one()
    return State(
        Setting(row.url, row.secrets), row.position, pending, row.dropped, row.last_success,
        row.last_error, row.failing_since,
    )  # fmt: skip
