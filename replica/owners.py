"""Who owns the epoch that a replica is in, and who else claims to: what its polls say of that."""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import quote

from attrs import define

from cluster.log.epochs import Start
from cluster.state import queries
from cluster.state.database import Database


@define
class Owners:
    """The epochs of a replica's own log, and the last start of one that contradicts them."""

    _database: Database
    _epoch: int = 0
    _key: str | None = None
    _rival: Start | None = None

    async def met(self, starts: Sequence[Start]) -> None:
        """Somebody has proven these starts: perhaps one of an epoch that is another's here."""
        mine = {one.epoch: one for one in await self._database.read(queries.starts)}
        for start in starts:
            own = mine.get(start.epoch)
            if own is not None and own.key != start.key:
                self._rival = start

    async def claims(self, epoch: int) -> str:
        """What a poll says of the owner of our last epoch, as a part of its query."""
        if epoch != self._epoch:
            known = await self._database.read(queries.epoch)
            self._epoch, self._key = epoch, None if known is None else known.key
        rival = self._rival if self._rival is not None and self._rival.epoch == epoch else None
        said = {"key": self._key, "rival": None if rival is None else rival.key}
        return "".join(f"&{name}={quote(key, safe='')}" for name, key in said.items() if key)
