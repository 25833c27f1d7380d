"""What an import of a devpi dump changes; each function runs in the writer's transaction.

What is there already changes nothing, so an import that broke off can be run again. What is
there otherwise than in the dump stays, and is a Conflict: the importer says so.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from attrs import evolve, frozen
from sqlalchemy import Connection, Table, select

from cluster.auth.acl import ROOT
from cluster.errors import Conflict, NotFound
from cluster.importing.dump import DOCS, TOX_RESULT
from cluster.log import changelog
from cluster.log.changes import Change, Kind, in_parts
from cluster.model import DistributionFile, HostedIndex, Index, MirrorIndex, User
from cluster.names import IndexName, NormalizedName, display_version
from cluster.state import contents, queries, schema
from cluster.state.options import to_options
from primary.bootstrap import index_set

FIRST_START = "+bootstrap"
"""The actor of the entries that a first start makes."""


@frozen
class Arrival:
    """A file of a dump whose bytes are in the store; `kind` as in `cluster.importing.dump`."""

    kind: str
    index: IndexName
    project: NormalizedName
    name: str
    version: str
    file: DistributionFile
    log: list[Any]
    tested: str | None = None


def set_user(connection: Connection, user: User, notes: list[str]) -> list[Change]:
    """Add a user; of root, whom every primary has, take what nobody has set here.

    Raises Conflict if the user is there with other options.
    """
    known = queries.user(connection, user.name)
    if known is None:
        return [_user_set(user)]
    if user.name == ROOT and _is_as_first_made(connection, schema.users, ROOT):
        if known.password is not None and known.password != user.password:
            notes.append("root keeps the password that was set here")
            user = evolve(user, password=known.password)
        return [] if user == known else [_user_set(user)]
    given, has = _described(user), _described(known)
    different = sorted(k for k in given.keys() | has.keys() if given.get(k) != has.get(k))
    if different:
        raise Conflict(f"is there already, with other values of {', '.join(different)}")
    return []


def set_index(connection: Connection, index: Index) -> list[Change]:
    """Add an index, or bring the one that a first start makes to what the dump says.

    Bases need not exist: in a dump they may have been deleted. Raises NotFound without its user,
    Conflict if it is there with other options.
    """
    user = index.name.partition("/")[0]
    if queries.user(connection, user) is None:
        raise NotFound(f"no user {user!r}")
    known = queries.index(connection, index.name)
    if known is None:
        return [index_set(index)]
    given, has = to_options(index), to_options(known)
    different = sorted(k for k in given.keys() | has.keys() if given.get(k) != has.get(k))
    if bool(index.secrets) != bool(known.secrets):
        different.append("its passwords")
    if not different:
        return []
    if _is_as_first_made(connection, schema.indexes, index.name):
        return [index_set(index)]
    raise Conflict(f"is there already, with other values of {', '.join(different)}")


def register(
    connection: Connection, index: IndexName, project: NormalizedName, name: str
) -> list[Change]:
    """Take a project's name, so that it is there without any release too."""
    _hosted(connection, index)
    if queries.has_project(connection, index, project):
        return []
    payload = {"index": index, "project": project, "name": name}
    return [Change(Kind.PROJECT_REGISTERED, payload)]


def set_release(
    connection: Connection,
    where: tuple[IndexName, NormalizedName],
    name: str,
    version: str,
    metadata: Mapping[str, Any],
) -> list[Change]:
    """Record a release's metadata; raises Conflict if it is there with other metadata."""
    index, project = where
    _hosted(connection, index)
    known = contents.release(connection, where, version)
    if known is not None:
        if known != metadata:
            raise Conflict("is there already, with other metadata")
        return []
    common = {
        "index": index, "project": project, "name": name, "version": display_version(version),
    }  # fmt: skip
    pairs = [("metadata", list(pair)) for pair in contents.joined_metadata(metadata)]
    return in_parts(Kind.RELEASE_SET, common, pairs)


def add_file(connection: Connection, arrival: Arrival) -> list[Change]:
    """Record a release file, a documentation zip or a tox result.

    Raises Conflict if one of its name is there with other bytes, or what a tox result is about
    is not there.
    """
    index = queries.index_or_404(connection, arrival.index)
    if isinstance(index, MirrorIndex):
        return _mirrored(connection, arrival)
    if arrival.kind == DOCS:
        return _docs(connection, arrival)
    if arrival.kind == TOX_RESULT:
        return _tox_result(connection, arrival)
    known = queries.file_by_name(connection, arrival.index, arrival.project, arrival.file.filename)
    if _is_there(known.sha256 if known else None, arrival):
        return []
    given = contents.release(connection, (arrival.index, arrival.project), arrival.version) or {}
    file = arrival.file
    if file.requires_python is None and given.get("requires_python"):
        file = evolve(file, requires_python=str(given["requires_python"]))
    payload = {**_place(arrival), "name": arrival.name, "file": file.to_json()}
    return [Change(Kind.FILE_ADDED, payload)]


def _docs(connection: Connection, arrival: Arrival) -> list[Change]:
    version = display_version(arrival.version)
    known = contents.docs_of(connection, (arrival.index, arrival.project)).get(version)
    if _is_there(known.sha256 if known else None, arrival):
        return []
    payload = {
        **_place(arrival), "name": arrival.name, "version": version, "docs": _blob(arrival),
    }  # fmt: skip
    return [Change(Kind.DOCS_SET, payload)]


def _tox_result(connection: Connection, arrival: Arrival) -> list[Change]:
    where, tested = (arrival.index, arrival.project), arrival.tested or ""
    if queries.file_by_name(connection, *where, tested) is None:
        raise Conflict(f"the file that was tested, {tested!r}, is not there")
    held = contents.toxresults_of(connection, where, tested)
    known = {one.result: one.sha256 for one in held}.get(arrival.file.filename)
    if _is_there(known, arrival):
        return []
    payload = {**_place(arrival), "filename": tested, "result": _blob(arrival)}
    return [Change(Kind.TOXRESULT_ADDED, payload)]


def _mirrored(connection: Connection, arrival: Arrival) -> list[Change]:
    """A file that devpi kept of an upstream: here until a refresh finds it gone upstream."""
    known = queries.file_by_name(connection, arrival.index, arrival.project, arrival.file.filename)
    if known is not None:
        return []
    place = {"index": arrival.index, "project": arrival.project}
    return [Change(Kind.MIRROR_PROJECT, {**place, "files": [arrival.file.to_json()]})]


def _place(arrival: Arrival) -> dict[str, Any]:
    # Nobody wants a CI run for each file of ten years: what hears of uploads leaves these out.
    return {
        "index": arrival.index, "project": arrival.project, "log": arrival.log, "imported": True,
    }  # fmt: skip


def _blob(arrival: Arrival) -> dict[str, Any]:
    file = arrival.file
    return {"filename": file.filename, "sha256": file.sha256, "size": file.size}


def _is_there(known: str | None, arrival: Arrival) -> bool:
    if known is not None and known != arrival.file.sha256:
        raise Conflict("a file of this name is there already, with other bytes")
    return known is not None


def _user_set(user: User) -> Change:
    payload: dict[str, Any] = {"user": user.name, "options": dict(user.options)}
    if user.password is not None:
        payload["password"] = user.password
    return Change(Kind.USER_SET, payload)


def _described(user: User) -> dict[str, Any]:
    return {k: v for k, v in user.options.items() if k not in ("created", "modified")}


def _hosted(connection: Connection, index: IndexName) -> None:
    if not isinstance(queries.index_or_404(connection, index), HostedIndex):
        raise Conflict(f"{index} is a mirror here")


def _is_as_first_made(connection: Connection, table: Table, name: str) -> bool:
    """Whether nobody has changed a user or an index since the first start made it."""
    serial = connection.execute(select(table.c.serial).where(table.c.name == name)).scalar_one()
    try:
        entry = next(changelog.entries(connection, serial - 1, 1), None)
    except changelog.Compacted:
        return False  # nobody can tell any more: what is here stays
    return entry is not None and entry.actor == FIRST_START
