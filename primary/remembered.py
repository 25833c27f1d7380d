"""The replicas that the primary knows, kept over its restarts: in its own database, not the log.

Each is written at most once a minute; a power cut costs a minute of what is information only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

import orjson
from attrs import define, field
from sqlalchemy import Column, Connection, Float, LargeBinary, MetaData, Table, Text, delete, select
from sqlalchemy.dialects.sqlite import insert
from twisted.internet.defer import Deferred
from twisted.logger import Logger

from cluster.state.database import Database

metadata = MetaData()

table = Table(
    "replicas",
    metadata,
    Column("uuid", Text, primary_key=True),
    Column("at", Float, nullable=False),
    Column("record", LargeBinary, nullable=False),
)

WRITE_SECONDS: Final = 60.0
FORGET_SECONDS: Final = 30 * 86_400.0


@define
class Remembered:
    """Notes replicas by uuid, each as a JSON object; `now` is seconds since 1970."""

    _log = Logger()

    _database: Database
    _now: Callable[[], float]
    _written: dict[str, float] = field(factory=dict)

    async def load(self) -> dict[str, dict[str, Any]]:
        """Those heard of in the last 30 days; older ones are dropped."""
        before = self._now() - FORGET_SECONDS
        await self._database.write(lambda c: _drop(c, before))
        return await self._database.read(_all)

    def note(self, node: str, record: Callable[[], Mapping[str, Any]]) -> None:
        """A replica was heard of just now; returns at once."""
        now = self._now()
        if 0 <= now - self._written.get(node, -WRITE_SECONDS) < WRITE_SECONDS:
            return
        self._written[node] = now
        data = orjson.dumps(record())
        self._do(lambda c: _put(c, node, now, data))

    def forget(self, node: str) -> None:
        """A replica is no more."""
        self._written.pop(node, None)
        self._do(lambda c: _drop_one(c, node))

    def _do(self, work: Callable[[Connection], None]) -> None:
        done = Deferred.fromCoroutine(self._database.write(work))
        done.addErrback(
            lambda failure: self._log.warn(
                "what is known of a replica could not be noted: {failure}", failure=failure
            )
        )


def _drop(connection: Connection, before: float) -> None:
    metadata.create_all(connection)
    connection.execute(delete(table).where(table.c.at < before))


def _drop_one(connection: Connection, node: str) -> None:
    connection.execute(delete(table).where(table.c.uuid == node))


def _put(connection: Connection, node: str, at: float, record: bytes) -> None:
    values = {"at": at, "record": record}
    statement = insert(table).values(uuid=node, **values)
    connection.execute(statement.on_conflict_do_update(index_elements=["uuid"], set_=values))


def _all(connection: Connection) -> dict[str, dict[str, Any]]:
    return {row.uuid: orjson.loads(row.record) for row in connection.execute(select(table))}
