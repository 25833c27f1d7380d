"""The indexes behind a URL, as far as the one who asks may read them."""

from __future__ import annotations

from collections.abc import Iterable

from sqlalchemy import Connection

from cluster.model import Index, MirrorIndex
from cluster.names import IndexName
from cluster.state import queries
from cluster.state.database import Database
from cluster.state.freshness import THE_LIST
from cluster.upstream.ondemand import OnDemand
from cluster.web.access import is_public, reader_of
from cluster.web.identity import Identity
from cluster.web.request import NodeRequest


async def readable_chain(
    database: Database,
    identity: Identity,
    request: NodeRequest,
    name: IndexName,
    project: str | None = None,
) -> list[Index]:
    """An index and its bases in the order of resolution, without those that may not be read.

    Raises NotFound, AuthenticationRequired when that goes for the index itself.
    """
    chain = await database.read(lambda c: _chain(c, name))
    if is_public(chain):
        return chain
    reader = await reader_of(identity, request, project)
    reader.require(chain[0])  # a hosted index comes first, and a mirror has no bases
    return [index for index in chain if reader(index)]


def _chain(connection: Connection, name: IndexName) -> list[Index]:
    return queries.chain(connection, queries.index_or_404(connection, name))


async def refresh_lists(mirror: OnDemand, chain: Iterable[Index]) -> None:
    """See to it that the names which the upstreams of these indexes list are known here."""
    for index in chain:
        if isinstance(index, MirrorIndex):
            await mirror.ensure(index, THE_LIST)
