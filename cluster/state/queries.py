"""The questions asked of the state; each takes a connection and reads one snapshot."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any, Final, NamedTuple

import orjson
from attrs import evolve, frozen
from sqlalchemy import Connection, Row, func, select, union_all

from cluster.errors import NotFound
from cluster.log import changelog
from cluster.log.driver import driver
from cluster.log.epochs import Start
from cluster.model import DistributionFile, Index, ProjectPage, ProjectStatus, User
from cluster.names import IndexName, NormalizedName
from cluster.state import inherit
from cluster.state.options import index_from_options
from cluster.state.position import Head
from cluster.state.schema import (
    epochs,
    files,
    indexes,
    listing,
    projects,
    tokens,
    users,
)

# Each upload makes at least one page anew: those statements go to the driver.
_INDEX: Final = "SELECT type, body, secrets FROM indexes WHERE name = ?"
_INDEX_SERIAL: Final = "SELECT serial FROM indexes WHERE name = ?"
_PROJECT: Final = """SELECT present, serial, status, bare_versions FROM projects
WHERE index_name = ? AND name = ?"""
_FILES: Final = "SELECT body FROM files WHERE index_name = ? AND project = ? ORDER BY filename"

MayRead = Callable[[Index], bool]
"""Whether the one who asks may read an index."""


def everyone(index: Index) -> bool:
    """For questions that are not asked on behalf of a reader."""
    return True


@frozen
class Epoch:
    """Who signs the log since `serial`: `key` is base64 of an Ed25519 public key; `node` and
    `proof` are None for the first.
    """

    epoch: int
    serial: int
    log: str
    key: str
    node: str | None = None
    proof: str | None = None


_LAST_EPOCH: Final = (
    "SELECT epoch, serial, log, key, node, proof FROM epochs ORDER BY epoch DESC LIMIT 1"
)


def epoch(connection: Connection) -> Epoch | None:
    """The epoch in force, or None before the log's first entry."""
    row = driver(connection).execute(_LAST_EPOCH).fetchone()
    return None if row is None else Epoch(*row)


def all_epochs(connection: Connection) -> list[Epoch]:
    """All epochs of the log, oldest first."""
    return [Epoch(*row) for row in connection.execute(select(epochs).order_by(epochs.c.epoch))]


def starts(connection: Connection) -> list[Start]:
    """How the epochs after the first began, as other nodes can check it."""
    return [
        Start(
            e.epoch, e.serial, e.key, e.node or "", e.proof or "",
            changelog.frontier(connection, e.serial - 1).root,
        )
        for e in all_epochs(connection)[1:]
    ]  # fmt: skip


def user(connection: Connection, name: str) -> User | None:
    """A user by name."""
    row = connection.execute(select(users).where(users.c.name == name)).first()
    return None if row is None else User(name, **orjson.loads(row.body))


def user_names(connection: Connection) -> list[str]:
    """The names of all users, sorted."""
    return list(connection.execute(select(users.c.name).order_by(users.c.name)).scalars())


def token(connection: Connection, id: str) -> dict[str, Any] | None:
    """The payload of `token.added` of a token that was not removed since."""
    row = connection.execute(select(tokens).where(tokens.c.id == id)).first()
    return None if row is None else _token(row)


def tokens_of(connection: Connection, user: str | None) -> list[dict[str, Any]]:
    """The payloads of a user's tokens, or of all, oldest first."""
    statement = select(tokens).order_by(tokens.c.serial)
    if user is not None:
        statement = statement.where(tokens.c.user == user)
    return [_token(row) for row in connection.execute(statement)]


def _token(row: Row[Any]) -> dict[str, Any]:
    return {"token": row.id, "user": row.user, **orjson.loads(row.body)}


def index(connection: Connection, name: IndexName) -> Index | None:
    """An index by its full name."""
    row = driver(connection).execute(_INDEX, (name,)).fetchone()
    return None if row is None else _made(name, *row)


def indexes_of(connection: Connection, user: str | None = None) -> list[Index]:
    """A user's indexes, or all, sorted by name."""
    statement = select(indexes).order_by(indexes.c.name)
    found = [_index(row) for row in connection.execute(statement)]
    return [i for i in found if user is None or i.name.partition("/")[0] == user]


def _index(row: Row[Any]) -> Index:
    return _made(row.name, row.type, row.body, row.secrets)


@lru_cache(maxsize=256)
def _made(name: str, type: str, body: bytes, secrets: str | None) -> Index:
    # Each upload looks at its index once more in the transaction that records it.
    return evolve(index_from_options(IndexName(name), type, orjson.loads(body)), secrets=secrets)


def index_or_404(connection: Connection, name: IndexName) -> Index:
    """An index by its full name; raises NotFound."""
    found = index(connection, name)
    if found is None:
        raise NotFound(f"The stage {name} could not be found.")
    return found


def index_names(connection: Connection) -> list[IndexName]:
    """The names of all indexes, sorted."""
    names = connection.execute(select(indexes.c.name).order_by(indexes.c.name)).scalars()
    return [IndexName(name) for name in names]


def chain(connection: Connection, start: Index) -> list[Index]:
    """An index and all its bases, in the order of resolution."""
    return inherit.order(start, lambda name: index(connection, name))


def has_project(connection: Connection, name: IndexName, project: NormalizedName) -> bool:
    """Whether an index has a project's name, even without files (devpi-api §7 rule 5)."""
    row = _project(connection, name, project)
    return row is not None and bool(row.present)


def contributing(connection: Connection, start: Index, project: NormalizedName) -> list[Index]:
    """The indexes that a project's page on `start` is made of, in order."""
    return inherit.resolve(
        start,
        lambda name: index(connection, name),
        project,
        lambda candidate: has_project(connection, candidate.name, project),
    )


def project_page(
    connection: Connection, start: Index, project: NormalizedName, may_read: MayRead = everyone
) -> ProjectPage:
    """A project as an index and its bases show it: first index wins for a file name.

    Bases that the reader may not read are left out, though their names still shadow mirrors.
    Raises NotFound when no contributing index has it. The page's serial also counts projects
    and indexes that contribute nothing (any more): for one URL it never goes backwards.
    """
    reachable = [index for index in chain(connection, start) if may_read(index)]
    sources = [i for i in contributing(connection, start, project) if may_read(i)]
    page = page_of(connection, reachable, sources, project)
    if page is None:
        raise NotFound(f"no project {project!r} on {start.name}")
    return page


def page_of(
    connection: Connection, reachable: list[Index], sources: list[Index], project: NormalizedName
) -> ProjectPage | None:
    """A page by the indexes in reach and those of them that contribute; None if nobody has it."""
    rows = {index.name: _project(connection, index.name, project) for index in reachable}
    present = [(i.name, row) for i in sources if (row := rows.get(i.name)) and row.present]
    if not present:
        return None
    found: dict[str, DistributionFile] = {}
    bare: set[str] = set()
    for name, row in present:
        bare.update(orjson.loads(row.bare_versions))
        for file in project_files(connection, name, project):
            found.setdefault(file.filename, file)
    ask = driver(connection).execute
    of_indexes = [row[0] for i in reachable for row in ask(_INDEX_SERIAL, (i.name,))]
    serial = max([*of_indexes, *(row.serial for row in rows.values() if row)])
    return ProjectPage(
        name=project,
        files=tuple(found[name] for name in sorted(found)),
        bare_versions=tuple(sorted(bare)),
        status=ProjectStatus(**orjson.loads(present[0][1].status)),
        serial=serial,
    )


class _Project(NamedTuple):
    present: int
    serial: int
    status: bytes
    bare_versions: bytes


def _project(connection: Connection, name: IndexName, project: str) -> _Project | None:
    row = driver(connection).execute(_PROJECT, (name, project)).fetchone()
    return None if row is None else _Project(*row)


def project_facts(
    connection: Connection, name: IndexName, project: NormalizedName
) -> tuple[ProjectStatus, list[str]] | None:
    """What one index says of a project beside its files: status and bare versions."""
    row = _project(connection, name, project)
    if row is None or not row.present:
        return None
    return ProjectStatus(**orjson.loads(row.status)), orjson.loads(row.bare_versions)


def project_files(
    connection: Connection, name: IndexName, project: NormalizedName
) -> list[DistributionFile]:
    """One index's own files of a project, sorted by name."""
    rows = driver(connection).execute(_FILES, (name, project))
    return [DistributionFile(**orjson.loads(body)) for (body,) in rows]


def file_by_name(
    connection: Connection, name: IndexName, project: NormalizedName, filename: str
) -> DistributionFile | None:
    """One file of an index, by its name."""
    statement = select(files.c.body).where(
        files.c.index_name == name, files.c.project == project, files.c.filename == filename
    )
    body = connection.execute(statement).scalar()
    return None if body is None else DistributionFile(**orjson.loads(body))


def listed(connection: Connection, names: list[IndexName]) -> Iterator[tuple[str, str, int]]:
    """(normalized, display, serial) of every project on these indexes, sorted, streamed.

    A name on several indexes, or both listed upstream and stored here, comes once, with its
    highest serial.
    """
    own = select(projects.c.name, projects.c.display, projects.c.serial).where(
        projects.c.index_name.in_(names), projects.c.present == 1
    )
    upstream = select(listing.c.name, listing.c.display, listing.c.serial).where(
        listing.c.index_name.in_(names), listing.c.present == 1
    )
    both = union_all(own, upstream).subquery()
    statement = (
        select(both.c.name, func.min(both.c.display), func.max(both.c.serial))
        .group_by(both.c.name)
        .order_by(both.c.name)
    )
    for row in connection.execution_options(yield_per=2_000).execute(statement):
        yield row[0], row[1], row[2]


def lists_anything(connection: Connection, name: IndexName) -> bool:
    """Whether any project of an index is known, stored here or listed upstream."""
    return any(
        connection.execute(select(owner).where(owner == name).limit(1)).first() is not None
        for owner in (listing.c.index_name, projects.c.index_name)
    )


def projects_changed(
    connection: Connection, names: list[IndexName], after: int, upto: int
) -> list[tuple[str, int]]:
    """The projects of these indexes, or of their lists, whose last change is behind `after` and
    up to `upto`, with its serial, in its order.
    """
    found = union_all(*(
        select(t.c.display, t.c.serial).where(
            t.c.index_name.in_(names), t.c.serial > after, t.c.serial <= upto
        )
        for t in (projects, listing)
    ))  # fmt: skip
    return sorted(((row[0], row[1]) for row in connection.execute(found)), key=lambda r: r[::-1])


def list_serial(connection: Connection, reachable: list[Index]) -> int:
    """The serial of the last change to the project list of these indexes."""
    names = [index.name for index in reachable]
    found = [
        connection.execute(select(func.max(column)).where(owner.in_(names))).scalar() or 0
        for column, owner in (
            (projects.c.serial, projects.c.index_name),
            (listing.c.serial, listing.c.index_name),
            (indexes.c.serial, indexes.c.name),
        )
    ]
    return max(found)


def head(connection: Connection) -> Head:
    """The last entry of the log as the database holds it."""
    frontier, now = changelog.frontier(connection), epoch(connection)
    return Head(frontier.size, now.epoch if now else 0, frontier.root, head_time(connection))


def time_of(connection: Connection, serial: int) -> str:
    """When an entry was recorded, by the primary's clock (RFC 3339); raises Compacted."""
    # Not read_raw: that gives nothing of a group which goes on behind this entry.
    statement = select(changelog.log.c.entry).where(changelog.log.c.serial == serial)
    raw = connection.execute(statement).scalar()
    if raw is None:
        raise changelog.Compacted(changelog.minimum(connection))
    time: str = orjson.loads(raw)["time"]
    return time


def head_time(connection: Connection) -> str | None:
    """When the last entry was recorded, by the primary's clock; None when no entry is here."""
    last = changelog.size(connection)
    page = (
        changelog.read_raw(connection, last - 1, 1, 1)
        if last > changelog.minimum(connection)
        else []
    )
    return orjson.loads(page[0])["time"] if page else None
