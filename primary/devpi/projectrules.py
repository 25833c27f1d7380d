"""What is removed, yanked, or given a status: decided in the log's transaction.

Each function returns the changes, none when it is so already, and raises what stands against
them (devpi-api §6; PEP 592, 792).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from attrs import frozen
from sqlalchemy import Connection

from cluster.auth.acl import Principal, require_delete
from cluster.errors import Forbidden, Gone, InvalidRequest, NotFound
from cluster.log.changes import Change, Kind, in_parts
from cluster.model import DistributionFile, HostedIndex, Index, MirrorIndex
from cluster.names import IndexName, NormalizedName, display_version
from cluster.state import contents, queries
from cluster.state.links import LocatedFile
from cluster.web.toxtarget import FileLink
from primary.devpi.toxresults import is_release_file, own_file

STATUSES: Final = ("active", "archived", "deprecated", "quarantined")
MAX_REASON: Final = 2_000
"""Characters: a reason is shown in lists of files."""

_NOT_VOLATILE = "cannot delete version on non-volatile index"


@frozen
class Wish:
    """Who wants to change an index; `force` also removes from one that is not volatile."""

    who: Principal
    index: IndexName
    force: bool = False


def _permitted(connection: Connection, wish: Wish) -> Index:
    index = queries.index_or_404(connection, wish.index)
    require_delete(wish.who, index)
    return index


def _removable(connection: Connection, wish: Wish, refusal: str) -> Index:
    index = _permitted(connection, wish)
    if not index.volatile and not wish.force:
        raise Forbidden(f"{refusal}; ?force removes it all the same")
    return index


def _hosted(connection: Connection, wish: Wish, what: str) -> HostedIndex:
    index = _permitted(connection, wish)
    if isinstance(index, MirrorIndex):
        raise InvalidRequest(f"{index.name} is a mirror: {what} is for its upstream to say")
    return index


def remove_project(connection: Connection, wish: Wish, project: NormalizedName) -> list[Change]:
    """Remove a project with all that hangs on it; of a mirror, what was mirrored of it."""
    refusal = f"project {project!r} is on non-volatile index {wish.index}"
    index = _removable(connection, wish, refusal)
    if not queries.has_project(connection, index.name, project):
        raise NotFound(f"no project {project!r}")
    return [Change(Kind.PROJECT_REMOVED, {"index": index.name, "project": project})]


def remove_version(
    connection: Connection, wish: Wish, project: NormalizedName, version: str
) -> list[Change]:
    """Remove a release with its files, documentation and test results."""
    index = _removable(connection, wish, _NOT_VOLATILE)
    wanted, where = display_version(version), (index.name, project)
    if wanted not in contents.versions(connection, where):
        raise NotFound(f"version {version!r} of project {project!r} not found on {index.name}")
    if isinstance(index, MirrorIndex):
        held = contents.held_files(connection, where, wanted)
        return _dropped(index, project, [one.file.filename for one in held])
    payload = {"index": index.name, "project": project, "version": wanted}
    return [Change(Kind.RELEASE_REMOVED, payload)]


def remove_file(connection: Connection, wish: Wish, link: FileLink) -> list[Change]:
    """Remove a file, a documentation zip or a test result; raises Gone for a removed one."""
    index = _removable(connection, wish, _NOT_VOLATILE)
    located = _located(connection, index, link)
    if isinstance(index, MirrorIndex) and is_release_file(connection, located):
        return _dropped(index, located.project, [located.file.filename])
    where = {"index": index.name, "project": located.project}
    return [Change(Kind.FILE_REMOVED, {**where, "filename": located.file.filename})]


def _located(connection: Connection, index: Index, link: FileLink) -> LocatedFile:
    try:
        return own_file(connection, index, link)
    except Gone:
        raise Gone(f"file {link.path!r} existed, deleted in later serial") from None
    except NotFound:
        raise NotFound(f"package {link.path!r} doesn't exist") from None


def _dropped(index: Index, project: NormalizedName, filenames: Iterable[str]) -> list[Change]:
    where = {"index": index.name, "project": project}
    names = [("removed", filename) for filename in filenames]
    return in_parts(Kind.MIRROR_PROJECT, where, names)


def yank_version(
    connection: Connection, wish: Wish, project: NormalizedName, version: str, reason: str | None
) -> list[Change]:
    """Yank all files of a release, or with None for a reason take that back."""
    index = _hosted(connection, wish, "what is yanked")
    held = contents.held_files(connection, (index.name, project), version)
    if not held:
        raise NotFound(f"no files of version {version!r} of project {project!r} on {index.name}")
    return _yanked(index, project, [one.file for one in held], reason)


def yank_file(
    connection: Connection, wish: Wish, link: FileLink, reason: str | None
) -> list[Change]:
    """Yank one file, or with None for a reason take that back."""
    index = _hosted(connection, wish, "what is yanked")
    located = _located(connection, index, link)
    if not is_release_file(connection, located):
        raise InvalidRequest(f"{link.filename} is not a file of a release")
    return _yanked(index, located.project, [located.file], reason)


def _yanked(
    index: Index, project: NormalizedName, files: Iterable[DistributionFile], reason: str | None
) -> list[Change]:
    names = [("filenames", file.filename) for file in files if file.yanked != reason]
    common = {"index": index.name, "project": project, "yanked": reason}
    return in_parts(Kind.FILE_YANKED, common, names) if names else []


def set_status(
    connection: Connection, wish: Wish, project: NormalizedName, status: Mapping[str, str]
) -> list[Change]:
    """Give a project a status (PEP 792); `status` is from `checked_status`."""
    index = _hosted(connection, wish, "a project's status")
    facts = queries.project_facts(connection, index.name, project)
    if facts is None:
        raise NotFound(f"no project {project!r}")
    if {"status": facts[0].status, **_reason(facts[0].reason)} == status:
        return []
    payload = {"index": index.name, "project": project, "status": dict(status)}
    return [Change(Kind.PROJECT_STATUS, payload)]


def checked_status(given: Mapping[str, Any]) -> dict[str, str]:
    """The body of a request for a status; raises InvalidRequest."""
    unknown = sorted(given.keys() - {"status", "reason"})
    if unknown:
        raise InvalidRequest(f"a status has no {', '.join(unknown)}: it is status and reason")
    status = given.get("status")
    if status not in STATUSES:
        raise InvalidRequest(f"status is one of {', '.join(STATUSES)}, not {status!r}")
    return {"status": status, **_reason(checked_reason(given))}


def checked_reason(given: Mapping[str, Any]) -> str | None:
    """The reason in the body of a request, None when there is none; raises InvalidRequest."""
    reason = given.get("reason")
    if reason is not None and not isinstance(reason, str):
        raise InvalidRequest("reason is a text")
    if reason is not None and len(reason) > MAX_REASON:
        raise InvalidRequest(f"a reason has at most {MAX_REASON} characters")
    return reason


def _reason(reason: str | None) -> dict[str, str]:
    return {"reason": reason} if reason else {}
