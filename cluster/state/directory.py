"""Users, indexes and API tokens by name, remembered until one of them changes.

Every request with a password, and every write, asks for some of them, and each question to the
database is a turn of a thread. Lives on the reactor.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, TypeVar

from attrs import define, field
from sqlalchemy import Connection

from cluster.errors import NotFound
from cluster.model import Index, User
from cluster.names import IndexName
from cluster.state import queries
from cluster.state.database import Database
from cluster.state.position import Head, Position
from cluster.state.rows import Touched

T = TypeVar("T")

MOST_REMEMBERED: Final = 4_096


@define(eq=False)
class Directory:
    """Answers as `cluster.state.queries` does at this node's position.

    A commit is heard of before whoever wrote it gets an answer: nobody who knows of a change
    is told what was before it.
    """

    database: Database
    _users: dict[str, User] = field(factory=dict)
    _indexes: dict[IndexName, Index] = field(factory=dict)
    _tokens: dict[str, dict[str, Any]] = field(factory=dict)
    _changes: int = 0

    @classmethod
    def following(cls, database: Database, position: Position) -> Directory:
        """A directory that hears of commits."""
        made = cls(database)
        position.listen(made.changed)
        return made

    def changed(self, head: Head, touched: Touched) -> None:
        """Forget all that may have changed (a `Position` listener)."""
        if touched.indexes:
            self._changes += 1
            for remembered in (self._users, self._indexes, self._tokens):
                remembered.clear()

    async def user(self, name: str) -> User | None:
        """A user by name."""
        return await self._found(self._users, name, queries.user)

    async def token(self, id: str) -> dict[str, Any] | None:
        """The payload of `token.added` of a token that was not removed since."""
        return await self._found(self._tokens, id, queries.token)

    async def index(self, name: IndexName) -> Index | None:
        """An index by its full name."""
        return await self._found(self._indexes, name, queries.index)

    async def index_or_404(self, name: IndexName) -> Index:
        """An index by its full name; raises NotFound."""
        found = await self.index(name)
        if found is None:
            raise NotFound(f"The stage {name} could not be found.")
        return found

    async def _found(
        self, remembered: dict[Any, T], name: Any, question: Callable[[Connection, Any], T | None]
    ) -> T | None:
        if name in remembered:
            return remembered[name]
        changes = self._changes
        found = await self.database.read(lambda c: question(c, name))
        # What is not there is not remembered: anybody may ask for any name.
        if found is not None and changes == self._changes:
            if len(remembered) >= MOST_REMEMBERED:
                remembered.clear()
            remembered[name] = found
        return found
