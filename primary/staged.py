"""What an index holds, seen together with what waits in one of its stages."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import orjson
from attrs import frozen
from sqlalchemy import Connection, bindparam, select

from cluster.log.changes import Kind
from cluster.model import DistributionFile
from cluster.names import IndexName, NormalizedName, version_sort_key
from cluster.state import contents
from cluster.state.contents import HeldDocs, HeldFile
from cluster.state.releases import staged_changes
from cluster.state.schema import files, releases, removed

# Made once: each upload asks, and making a statement takes longer than running it.
_FILE: Final = select(files.c.body, files.c.log).where(
    files.c.index_name == bindparam("index"),
    files.c.project == bindparam("project"),
    files.c.filename == bindparam("filename"),
)
_RELEASE: Final = select(releases.c.body).where(
    releases.c.index_name == bindparam("index"),
    releases.c.project == bindparam("project"),
    releases.c.version == bindparam("version"),
)


@frozen
class Holdings:
    """A project on an index; with a `stage`, as it will be once that is published."""

    connection: Connection
    index: IndexName
    project: NormalizedName
    stage: str | None = None

    def file(self, filename: str) -> HeldFile | None:
        """A distribution file with its link log."""
        for payload in reversed(list(self._staged(Kind.FILE_ADDED))):
            if payload["file"]["filename"] == filename:
                return HeldFile(DistributionFile(**payload["file"]), payload["log"])
        where = {"index": self.index, "project": self.project, "filename": filename}
        row = self.connection.execute(_FILE, where).first()
        if row is None:
            return None
        return HeldFile(DistributionFile(**orjson.loads(row.body)), orjson.loads(row.log))

    def release(self, version: str) -> dict[str, Any] | None:
        """The metadata of a registered release; `version` is normalized."""
        where = {"index": self.index, "project": self.project, "version": version}
        body = self.connection.execute(_RELEASE, where).scalar()
        known = None if body is None else orjson.loads(body)
        for payload in self._staged(Kind.RELEASE_SET):
            if payload["version"] != version:
                continue
            if payload.get("part", 1) == 1 or known is None:
                known = {}
            for key, value in payload["metadata"]:
                known[key] = known[key] + value if key in known else value
        return known

    def docs(self, version: str) -> HeldDocs | None:
        """The documentation of a release."""
        for payload in reversed(list(self._staged(Kind.DOCS_SET))):
            if payload["version"] == version:
                return HeldDocs(version, log=payload["log"], **payload["docs"])
        return contents.docs_of(self.connection, (self.index, self.project)).get(version)

    def latest_version(self) -> str | None:
        """The highest version of the project here, None without any."""
        own = contents.versions(self.connection, (self.index, self.project))
        own |= {payload["version"] for payload in self._staged(Kind.RELEASE_SET)}
        return max(own, key=version_sort_key, default=None)

    def was_removed(self, filename: str) -> bool:
        """Whether a file of this name was on the index once, and was taken away."""
        graves = select(removed.c.link).where(
            removed.c.index_name == self.index, removed.c.filename == filename
        )
        return self.connection.execute(graves.limit(1)).first() is not None

    def _staged(self, kind: Kind) -> Iterator[dict[str, Any]]:
        if self.stage is None:
            return
        for found, payload in staged_changes(self.connection, self.index, self.stage):
            if found is kind and payload["project"] == self.project:
                yield payload
