"""The log as both kinds of node show it: the signed head and the immutable tiles."""

from __future__ import annotations

from collections.abc import Callable

from attrs import define

from cluster.errors import InvalidRequest, NotFound
from cluster.log import changelog
from cluster.log.merkle import HASH_SIZE, TILE_WIDTH
from cluster.state.database import Database
from cluster.web.replies import Reply

_IMMUTABLE = {"Cache-Control": "max-age=31536000, immutable"}


@define
class LogPages:
    """Answers for `/+log/checkpoint` and `/+log/tile/…` (C2SP tlog-tiles, hashes only).

    `checkpoint` gives the newest signed note that this node holds, or None.
    """

    _database: Database
    _checkpoint: Callable[[], bytes | None]

    async def checkpoint(self) -> Reply:
        """The newest signed checkpoint; raises NotFound on a replica that has none yet."""
        note = self._checkpoint()
        if note is None:
            raise NotFound("this node has not followed its primary yet")
        return Reply(200, note, "text/plain; charset=utf-8", {"Cache-Control": "no-store"})

    async def tile(self, level: str, number: str, width: str | None = None) -> Reply:
        """A full tile of 256 hashes, or its first `width`; raises NotFound, InvalidRequest."""
        try:
            place = int(level), int(number)
            wanted = TILE_WIDTH if width is None else int(width)
        except ValueError:
            raise InvalidRequest("a tile is named by numbers") from None
        if not all(0 <= part < 2**31 for part in place):
            raise NotFound("the log is not that long")
        if not 0 < wanted <= TILE_WIDTH:
            raise InvalidRequest(f"a tile has 1 to {TILE_WIDTH} hashes")
        data = await self._database.read(lambda c: changelog.tile(c, *place))
        if len(data) < wanted * HASH_SIZE:
            raise NotFound("the log is not that long")
        return Reply(200, data[: wanted * HASH_SIZE], "application/octet-stream", _IMMUTABLE)
