"""What a project's page is made of, and the page itself where one look at the state is enough."""

from __future__ import annotations

from attrs import frozen
from sqlalchemy import Connection

from cluster.model import Index, MirrorIndex
from cluster.names import IndexName, NormalizedName
from cluster.simple.cache import RenderedPage, encode_page
from cluster.simple.negotiate import Format
from cluster.simple.pages import render_project
from cluster.state import queries
from cluster.state.queries import MayRead, everyone
from cluster.web.access import is_public


@frozen
class Resolved:
    """What a project's page on an index is made of, before mirrors were asked."""

    index: Index
    chain: list[Index]
    contributing: list[Index]

    def mirrors(self, may_read: MayRead) -> list[MirrorIndex]:
        """The mirrors that contribute, as far as they may be read."""
        return [i for i in self.contributing if isinstance(i, MirrorIndex) and may_read(i)]


def chain_of(connection: Connection, name: IndexName) -> list[Index]:
    """An index and all its bases; raises NotFound."""
    return queries.chain(connection, queries.index_or_404(connection, name))


def resolve(connection: Connection, name: IndexName, project: NormalizedName) -> Resolved:
    """What a project's page on an index is made of; raises NotFound for an unknown index."""
    index = queries.index_or_404(connection, name)
    chain = queries.chain(connection, index)
    return Resolved(index, chain, queries.contributing(connection, index, project))


def at_once(
    connection: Connection, name: IndexName, project: NormalizedName, format: Format | None,
    read_at: int,
) -> tuple[Resolved, RenderedPage | None]:  # fmt: skip
    """As `resolve`, and the page itself in `format` if neither a mirror nor rights are in its way:
    for the first reader after each upload this saves a turn of a thread.
    """
    resolved = resolve(connection, name, project)
    if format is None or not is_public(resolved.chain) or resolved.mirrors(everyone):
        return resolved, None
    page = queries.page_of(connection, resolved.chain, resolved.contributing, project)
    if page is None:
        return resolved, None
    body = render_project(page, format)
    return resolved, encode_page(project, format, page.serial, read_at, body)
