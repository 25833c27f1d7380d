"""When an upstream was last asked about a project, and what it said: outside the log.

"Nothing new" must not grow the log (design: freshness is not state), so each node keeps this
in a database of its own that may lose its last seconds in a power cut: the cost is one more
question to the upstream. The project list is kept under the empty project name.
"""

from __future__ import annotations

from enum import StrEnum

from attrs import frozen
from sqlalchemy import Column, Connection, Float, Integer, MetaData, Table, Text, delete, select
from sqlalchemy.dialects.sqlite import insert

from cluster.names import IndexName

metadata = MetaData()

THE_LIST = ""

table = Table(
    "freshness",
    metadata,
    Column("index_name", Text, primary_key=True),
    Column("project", Text, primary_key=True),
    Column("outcome", Text, nullable=False),
    Column("checked_at", Float, nullable=False),
    Column("succeeded_at", Float),
    Column("url", Text),
    Column("etag", Text),
    Column("last_modified", Text),
    Column("upstream_serial", Integer),
    Column("error", Text),
)


class Outcome(StrEnum):
    """What the upstream answered."""

    FOUND = "found"
    ABSENT = "absent"
    ERROR = "error"


@frozen
class Freshness:
    """The last answer of an upstream about one project.

    `checked_at` and `succeeded_at` are seconds since 1970 by this node's clock. After an error,
    `etag`, `last_modified` and `upstream_serial` are still those of the last success. `url` is
    the upstream they belong to: another `mirror_url` starts anew.
    """

    outcome: Outcome
    checked_at: float
    succeeded_at: float | None = None
    url: str | None = None
    etag: str | None = None
    last_modified: str | None = None
    upstream_serial: int | None = None
    error: str | None = None

    def age(self, now: float) -> float:
        """Seconds since the upstream was asked; after a clock step back, infinitely old."""
        return now - self.checked_at if now >= self.checked_at else float("inf")


def get(connection: Connection, index: IndexName, project: str) -> Freshness | None:
    """What is known of a project's freshness on a mirror index."""
    row = connection.execute(
        select(table).where(table.c.index_name == index, table.c.project == project)
    ).first()
    if row is None:
        return None
    values = row._asdict()
    del values["index_name"], values["project"]
    return Freshness(**{**values, "outcome": Outcome(row.outcome)})


def put(connection: Connection, index: IndexName, project: str, value: Freshness) -> None:
    """Remember an answer."""
    columns = {
        "outcome": value.outcome.value, "checked_at": value.checked_at,
        "succeeded_at": value.succeeded_at, "url": value.url, "etag": value.etag,
        "last_modified": value.last_modified, "upstream_serial": value.upstream_serial,
        "error": value.error,
    }  # fmt: skip
    statement = insert(table).values(index_name=index, project=project, **columns)
    connection.execute(
        statement.on_conflict_do_update(index_elements=["index_name", "project"], set_=columns)
    )


def forget_index(connection: Connection, index: IndexName) -> None:
    """Drop all that is known of an index: one that gets its name later is another one."""
    connection.execute(delete(table).where(table.c.index_name == index))


def forget(connection: Connection, index: IndexName, project: str) -> None:
    """Drop what is known of a project's freshness: its upstream is asked anew."""
    connection.execute(delete(table).where(table.c.index_name == index, table.c.project == project))


def forget_absent_before(connection: Connection, moment: float) -> None:
    """Drop old 404s: a bot asking for names that never were must not grow the table for ever."""
    connection.execute(
        delete(table).where(
            table.c.outcome == Outcome.ABSENT.value,
            table.c.succeeded_at.is_(None),
            table.c.checked_at < moment,
        )
    )
