"""When each API token was last used on this node: outside the log, in the node's own database.

A use is noted in memory at once and written at most once a minute for each token, so a busy
token costs nothing; a power cut costs the last minute of what is information only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from attrs import define, field
from sqlalchemy import Column, Connection, Float, MetaData, Table, Text, delete, select
from sqlalchemy.dialects.sqlite import insert
from twisted.internet.defer import Deferred
from twisted.logger import Logger

from cluster.state.database import Database

metadata = MetaData()

table = Table(
    "token_uses",
    metadata,
    Column("token", Text, primary_key=True),
    Column("used_at", Float, nullable=False),
)

WRITE_SECONDS: Final = 60.0
RECENT_SECONDS: Final = 90.0
_MOST_IN_MEMORY = 10_000
_MOST_TOLD = 40


@define
class TokenUses:
    """Notes uses of tokens, by id; `now` is seconds since 1970."""

    _log = Logger()

    _database: Database
    _now: Callable[[], float]
    _used: dict[str, float] = field(factory=dict)
    _written: dict[str, float] = field(factory=dict)

    def used(self, token: str) -> None:
        """A token was accepted just now; returns at once."""
        now = self._now()
        self._used[token] = now
        # After a step back of the clock too, for a write from the future says nothing.
        if 0 <= now - self._written.get(token, -WRITE_SECONDS) < WRITE_SECONDS:
            return
        if len(self._written) >= _MOST_IN_MEMORY:
            self._used, self._written = {token: now}, {}
        self._written[token] = now
        work = Deferred.fromCoroutine(self._database.write(lambda c: _put(c, token, now)))
        work.addErrback(self._failed)

    def recent(self) -> dict[str, int]:
        """What was used here within the last RECENT_SECONDS: for the primary to hear of."""
        now = self._now()
        found = [(at, token) for token, at in self._used.items() if 0 <= now - at < RECENT_SECONDS]
        return {token: int(at) for at, token in sorted(found)[-_MOST_TOLD:]}

    def heard(self, uses: Mapping[str, float]) -> None:
        """Another node says what was used there; kept in memory only."""
        latest = self._now() + RECENT_SECONDS
        for token, at in uses.items():
            full = token not in self._used and len(self._used) >= _MOST_IN_MEMORY
            if not full and self._used.get(token, 0.0) < at <= latest:
                self._used[token] = at

    async def last(self) -> Mapping[str, float]:
        """When each token was last used, as far as is known here: seconds since 1970, by id."""
        written = await self._database.read(_all)
        return {t: max(written.get(t, 0.0), self._used.get(t, 0.0)) for t in written | self._used}

    async def forget(self, token: str) -> None:
        """A token is no more."""
        self._used.pop(token, None)
        self._written.pop(token, None)
        await self._database.write(
            lambda c: c.execute(delete(table).where(table.c.token == token)) and None
        )

    def _failed(self, failure: object) -> None:
        self._log.warn("the use of a token could not be noted: {failure}", failure=failure)


def _put(connection: Connection, token: str, now: float) -> None:
    statement = insert(table).values(token=token, used_at=now)
    connection.execute(
        statement.on_conflict_do_update(index_elements=["token"], set_={"used_at": now})
    )


def _all(connection: Connection) -> dict[str, float]:
    return {row.token: row.used_at for row in connection.execute(select(table))}
