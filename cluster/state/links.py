"""What a file link leads to: a distribution file, a documentation zip or a tox result."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import orjson
from attrs import frozen
from sqlalchemy import Connection, Select, select

from cluster.errors import Gone, NotFound
from cluster.model import DistributionFile, Index
from cluster.names import IndexName, NormalizedName
from cluster.state.queries import MayRead, chain, everyone, index
from cluster.state.rows import content_link
from cluster.state.schema import docs, files, removed, toxresults


@frozen
class LocatedFile:
    """A file and where it is recorded."""

    index: Index
    project: NormalizedName
    file: DistributionFile


def file_by_link(
    connection: Connection,
    start: Index,
    kind: str,
    link: str,
    filename: str,
    may_read: MayRead = everyone,
) -> LocatedFile:
    """The file behind ``+f/<link>/<filename>`` or ``+e/…`` of an index.

    Any index of the chain may hold it: a page links inherited files below its own index. Raises
    NotFound, and Gone for what was removed.
    """
    reachable = {i.name: i for i in chain(connection, start) if may_read(i)}
    for look in (_distributions, _docs, _toxresults):
        here = {hit.index.name: hit for hit in look(connection, reachable, link, filename, kind)}
        for name in reachable:
            if name in here:
                return here[name]
    graves = select(removed.c.index_name).where(
        removed.c.link == link, removed.c.filename == filename
    )
    if set(connection.execute(graves).scalars()) & reachable.keys():
        raise Gone(f"{filename!r} was removed from {start.name}")
    raise NotFound(f"no file {filename!r} with that digest on {start.name}")


def file_by_digest(connection: Connection, sha256: str) -> LocatedFile | None:
    """A distribution file with this content, of a mirror if one has it, else of any index."""
    rows = connection.execute(select(files).where(files.c.link == content_link(sha256)))
    found: LocatedFile | None = None
    for row in rows:
        file = DistributionFile(**orjson.loads(row.body))
        holder = index(connection, IndexName(row.index_name))
        if file.sha256 == sha256 and holder is not None:
            found = LocatedFile(holder, NormalizedName(row.project), file)
            if file.url is not None:
                return found
    return found


Reachable = dict[IndexName, Index]


def _distributions(
    connection: Connection, reachable: Reachable, link: str, filename: str, kind: str
) -> Iterator[LocatedFile]:
    rows = list(connection.execute(select(files).where(files.c.link == link)))
    if kind == "+e":
        rows += connection.execute(select(files).where(files.c.url_link == link))
    for row in rows:
        if row.filename == filename and row.index_name in reachable:
            file = DistributionFile(**orjson.loads(row.body))
            yield LocatedFile(reachable[row.index_name], NormalizedName(row.project), file)


def _docs(
    connection: Connection, reachable: Reachable, link: str, filename: str, kind: str
) -> Iterator[LocatedFile]:
    statement = select(docs).where(docs.c.link == link, docs.c.filename == filename)
    return _blobs(connection, statement, reachable, filename)


def _toxresults(
    connection: Connection, reachable: Reachable, link: str, filename: str, kind: str
) -> Iterator[LocatedFile]:
    table = toxresults
    statement = select(table).where(table.c.link == link, table.c.result == filename)
    return _blobs(connection, statement, reachable, filename)


def _blobs(
    connection: Connection, statement: Select[Any], reachable: Reachable, filename: str
) -> Iterator[LocatedFile]:
    for row in connection.execute(statement):
        if row.index_name in reachable:
            facts = orjson.loads(row.body)
            hashes = {"sha256": facts["sha256"]}
            file = DistributionFile(filename, hashes=hashes, size=facts["size"])
            yield LocatedFile(reachable[row.index_name], NormalizedName(row.project), file)
