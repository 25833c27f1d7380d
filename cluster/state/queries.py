"""The questions asked of the state; each takes a connection and reads one snapshot."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import orjson
from attrs import frozen
from sqlalchemy import Connection, Row, func, select, union_all

from cluster.errors import NotFound
from cluster.log import changelog
from cluster.model import (
    DistributionFile,
    Index,
    ProjectPage,
    ProjectStatus,
    User,
)
from cluster.names import IndexName, NormalizedName
from cluster.state import inherit
from cluster.state.options import index_from_options
from cluster.state.schema import epochs, files, indexes, listing, projects, users


@frozen
class Epoch:
    """Who signs the log since `serial`: `key` is base64 of an Ed25519 public key."""

    epoch: int
    serial: int
    log: str
    key: str


@frozen
class LocatedFile:
    """A file and where it is recorded."""

    index: Index
    project: NormalizedName
    file: DistributionFile


def epoch(connection: Connection) -> Epoch | None:
    """The epoch in force, or None before the log's first entry."""
    row = connection.execute(select(epochs).order_by(epochs.c.epoch.desc()).limit(1)).first()
    return None if row is None else Epoch(row.epoch, row.serial, row.log, row.key)


def user(connection: Connection, name: str) -> User | None:
    """A user by name."""
    row = connection.execute(select(users).where(users.c.name == name)).first()
    return None if row is None else User(name, **orjson.loads(row.body))


def index(connection: Connection, name: IndexName) -> Index | None:
    """An index by its full name."""
    row = connection.execute(select(indexes).where(indexes.c.name == name)).first()
    return None if row is None else index_from_options(name, row.type, orjson.loads(row.body))


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
    statement = select(projects.c.present).where(
        projects.c.index_name == name, projects.c.name == project
    )
    return bool(connection.execute(statement).scalar())


def contributing(connection: Connection, start: Index, project: NormalizedName) -> list[Index]:
    """The indexes that a project's page on `start` is made of, in order."""
    return inherit.resolve(
        start,
        lambda name: index(connection, name),
        project,
        lambda candidate: has_project(connection, candidate.name, project),
    )


def project_page(connection: Connection, start: Index, project: NormalizedName) -> ProjectPage:
    """A project as an index and its bases show it: first index wins for a file name.

    Raises NotFound when no contributing index has it. The page's serial also counts projects
    and indexes that contribute nothing (any more): for one URL it never goes backwards.
    """
    reachable = chain(connection, start)
    sources = contributing(connection, start, project)
    rows = {row.index_name: row for row in _project_rows(connection, reachable, project)}
    present = [rows[i.name] for i in sources if i.name in rows and rows[i.name].present]
    if not present:
        raise NotFound(f"no project {project!r} on {start.name}")
    found: dict[str, DistributionFile] = {}
    bare: set[str] = set()
    for row in present:
        bare.update(orjson.loads(row.bare_versions))
        for file in project_files(connection, row.index_name, project):
            found.setdefault(file.filename, file)
    serials = select(func.max(indexes.c.serial)).where(
        indexes.c.name.in_([i.name for i in reachable])
    )
    serial = max(connection.execute(serials).scalar() or 0, *(r.serial for r in rows.values()))
    return ProjectPage(
        name=project,
        files=tuple(found[name] for name in sorted(found)),
        bare_versions=tuple(sorted(bare)),
        status=ProjectStatus(**orjson.loads(present[0].status)),
        serial=serial,
    )


def _project_rows(
    connection: Connection, chain: Iterable[Index], project: NormalizedName
) -> list[Row[tuple[object, ...]]]:
    names = [index.name for index in chain]
    statement = select(projects).where(projects.c.index_name.in_(names), projects.c.name == project)
    return list(connection.execute(statement))


def project_facts(
    connection: Connection, name: IndexName, project: NormalizedName
) -> tuple[ProjectStatus, list[str]] | None:
    """What one index says of a project beside its files: status and bare versions."""
    statement = select(projects).where(
        projects.c.index_name == name, projects.c.name == project, projects.c.present == 1
    )
    row = connection.execute(statement).first()
    if row is None:
        return None
    return ProjectStatus(**orjson.loads(row.status)), orjson.loads(row.bare_versions)


def project_files(
    connection: Connection, name: IndexName, project: NormalizedName
) -> list[DistributionFile]:
    """One index's own files of a project, sorted by name."""
    statement = (
        select(files.c.body)
        .where(files.c.index_name == name, files.c.project == project)
        .order_by(files.c.filename)
    )
    return [DistributionFile(**orjson.loads(b)) for b in connection.execute(statement).scalars()]


def file_by_name(
    connection: Connection, name: IndexName, project: NormalizedName, filename: str
) -> DistributionFile | None:
    """One file of an index, by its name."""
    statement = select(files.c.body).where(
        files.c.index_name == name, files.c.project == project, files.c.filename == filename
    )
    body = connection.execute(statement).scalar()
    return None if body is None else DistributionFile(**orjson.loads(body))


def file_by_link(
    connection: Connection, start: Index, kind: str, link: str, filename: str
) -> LocatedFile:
    """The file behind ``+f/<link>/<filename>`` or ``+e/…`` of an index; raises NotFound.

    Any index of the chain may hold it: a page links inherited files below its own index.
    """
    reachable = {i.name: i for i in chain(connection, start)}
    found = list(connection.execute(select(files).where(files.c.link == link)))
    if kind == "+e":
        found += connection.execute(select(files).where(files.c.url_link == link))
    rows = [row for row in found if row.index_name in reachable and row.filename == filename]
    if not rows:
        raise NotFound(f"no file {filename!r} with that digest on {start.name}")
    place = list(reachable)
    row = min(rows, key=lambda candidate: place.index(candidate.index_name))
    file = DistributionFile(**orjson.loads(row.body))
    return LocatedFile(reachable[row.index_name], NormalizedName(row.project), file)


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


def hosted_digests(connection: Connection) -> Iterator[str]:
    """The sha256 of every uploaded file, streamed."""
    statement = (
        select(files.c.body)
        .join(indexes, indexes.c.name == files.c.index_name)
        .where(indexes.c.type == "stage")
    )
    for body in connection.execution_options(yield_per=1_000).execute(statement).scalars():
        yield orjson.loads(body)["hashes"]["sha256"]


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


def head_time(connection: Connection) -> str | None:
    """When the last entry was recorded, by the primary's clock; None for an empty log."""
    last = changelog.size(connection)
    page = changelog.read_raw(connection, last - 1, 1, 1) if last else []
    return orjson.loads(page[0])["time"] if page else None
