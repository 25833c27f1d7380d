"""Whether an upload may be recorded, and what it changes: decided in the log's transaction.

A release, a file, a documentation zip: each function returns the changes, none when everything
is there already, and raises what stands against them (devpi-api §6; PEP 592, 792).
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

import orjson
from attrs import frozen
from sqlalchemy import Connection

from cluster.auth.acl import Principal, require_upload
from cluster.errors import Conflict, Forbidden, InvalidRequest, NotFound
from cluster.log.changes import Change, Kind
from cluster.log.driver import driver
from cluster.model import DistributionFile, HostedIndex, Index, ProjectStatus
from cluster.names import IndexName, NormalizedName
from cluster.state import queries
from cluster.state.contents import LinkLog
from primary.releasemetadata import Metadata, complete, release_changes, updated
from primary.staged import Holdings

_CLOSED: Final = ("archived", "quarantined")
_STATUS: Final = """SELECT status FROM projects
WHERE index_name = ? AND name = ? AND present = 1"""


@frozen
class Upload:
    """Who uploads to which index, when, and into which stage of it (None: for all to see)."""

    index: IndexName
    who: Principal
    when: datetime
    stage: str | None = None

    @property
    def in_stage(self) -> dict[str, str]:
        """What the payloads of staged changes have beside those of others."""
        return {} if self.stage is None else {"stage": self.stage}

    def entry(self, what: str, **more: Any) -> dict[str, Any]:
        """An entry of a link's log, as devpi writes them."""
        moment = list(self.when.astimezone(UTC).timetuple()[:6])
        return {"what": what, "who": self.who.name, "when": moment, **more}

    def log(self, old: LinkLog | None) -> LinkLog:
        """The log of an uploaded link; `old` is that of the link which it replaces."""
        uploaded = self.entry("upload", dst=self.index)
        if old is None:
            return [uploaded]
        count = 1 + sum(entry.get("count", 0) for entry in old if entry["what"] == "overwrite")
        return [{**self.entry("overwrite", count=count), "who": None}, uploaded]


def require_open(
    connection: Connection, index: IndexName, who: Principal, project: NormalizedName
) -> HostedIndex:
    """The index, if this user may upload this project to it now.

    Raises NotFound, AuthenticationRequired, Forbidden (also for projects that PEP 792 closes).
    """
    found = hosted(connection, index)
    require_upload(who, found, project)
    row = driver(connection).execute(_STATUS, (index, project)).fetchone()
    status = ProjectStatus(**orjson.loads(row[0] if row else b"{}")).status
    if status in _CLOSED:
        raise Forbidden(f"{project} on {index} is {status}: it takes no uploads")
    return found


def hosted(connection: Connection, name: IndexName) -> HostedIndex:
    """An index that takes uploads; raises NotFound."""
    return taking_uploads(queries.index_or_404(connection, name))


def taking_uploads(index: Index) -> HostedIndex:
    """The index, if it is one for uploads; raises NotFound."""
    if not isinstance(index, HostedIndex):
        raise NotFound(f"cannot submit to mirror index {index.name}")
    return index


def submitted(
    connection: Connection, upload: Upload, project: NormalizedName, metadata: Metadata
) -> list[Change]:
    """Register a release, or set all that is known of it."""
    require_open(connection, upload.index, upload.who, project)
    known = Holdings(connection, upload.index, project, upload.stage).release(metadata["version"])
    return release_changes(upload.index, project, known, complete(metadata), upload.in_stage)


def file_uploaded(
    connection: Connection,
    upload: Upload,
    project: NormalizedName,
    metadata: Metadata,
    file: DistributionFile,
) -> list[Change]:
    """Add a file to its release, which is registered with it; raises Conflict for a taken name."""
    index = require_open(connection, upload.index, upload.who, project)
    held = Holdings(connection, upload.index, project, upload.stage)
    known = held.file(file.filename)
    if known is not None and known.file.sha256 == file.sha256:
        return []
    trouble = file_conflict(index, held, file)
    if trouble is not None:
        raise Conflict(trouble)
    release = held.release(metadata["version"])
    changes = release_changes(
        upload.index, project, release, updated(release, metadata), upload.in_stage
    )
    payload = {
        "index": upload.index,
        "project": project,
        "name": metadata["name"],
        "file": file.to_json(),
        "log": upload.log(None if known is None else known.log),
        **upload.in_stage,
    }
    return [*changes, Change(Kind.FILE_ADDED, payload)]


def file_conflict(index: HostedIndex, held: Holdings, file: DistributionFile) -> str | None:
    """Why a file cannot have its name on an index; None when it can."""
    if index.volatile:
        return None
    known = held.file(file.filename)
    if known is not None and known.file.sha256 != file.sha256:
        return f"{file.filename} already exists in non-volatile index {index.name}"
    if known is None and held.was_removed(file.filename):
        return f"{file.filename} was used before on {index.name}, a non-volatile index"
    return None


def docs_uploaded(
    connection: Connection,
    upload: Upload,
    project: NormalizedName,
    metadata: Metadata,
    facts: Mapping[str, Any],
) -> list[Change]:
    """Give a release its documentation; `facts` are sha256 and size of the zip.

    Without a version in `metadata` it is that of the latest release here; a version that is not
    known is registered. Raises InvalidRequest without any, Conflict for others on a non-volatile
    index.
    """
    index = require_open(connection, upload.index, upload.who, project)
    held = Holdings(connection, upload.index, project, upload.stage)
    version = metadata["version"] or held.latest_version()
    if version is None:
        raise InvalidRequest(
            f"doczip has no version and {project!r} has no releases to derive one from"
        )
    known = held.docs(version)
    if known is not None and known.sha256 == facts["sha256"]:
        return []
    docs = {"filename": f"{project}-{version}.doc.zip", **facts}
    trouble = docs_conflict(index, held, version, docs)
    if trouble is not None:
        raise Conflict(trouble)
    changes: list[Change] = []
    if held.release(version) is None:
        registered = complete({"name": metadata["name"], "version": version})
        changes = release_changes(upload.index, project, None, registered, upload.in_stage)
    where = {"index": upload.index, "project": project, "name": metadata["name"]}
    log = upload.log(None if known is None else known.log)
    payload = {**where, "version": version, "docs": docs, "log": log, **upload.in_stage}
    return [*changes, Change(Kind.DOCS_SET, payload)]


def docs_conflict(
    index: HostedIndex, held: Holdings, version: str, docs: Mapping[str, Any]
) -> str | None:
    """Why a release cannot have this documentation; None when it can."""
    known = None if index.volatile else held.docs(version)
    if known is None or known.sha256 == docs["sha256"]:
        return None
    return f"{docs['filename']} already exists in non-volatile index {index.name}"
