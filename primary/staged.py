"""What an index holds, seen together with what waits in one of its stages."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import orjson
from attrs import frozen
from sqlalchemy import Connection, select

from cluster.log.changes import Kind
from cluster.log.driver import driver
from cluster.model import DistributionFile
from cluster.names import IndexName, NormalizedName, version_sort_key
from cluster.state import contents
from cluster.state.contents import HeldDocs, HeldFile
from cluster.state.releases import staged_changes
from cluster.state.schema import removed

# Each upload asks these, on the one thread that writes: straight from the driver.
_FILE: Final = """SELECT body, log FROM files
WHERE index_name = ? AND project = ? AND filename = ?"""
_RELEASE: Final = """SELECT body FROM releases
WHERE index_name = ? AND project = ? AND version = ?"""


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
        key = (self.index, self.project, filename)
        row = driver(self.connection).execute(_FILE, key).fetchone()
        if row is None:
            return None
        body, log = row
        return HeldFile(DistributionFile(**orjson.loads(body)), orjson.loads(log))

    def release(self, version: str) -> dict[str, Any] | None:
        """The metadata of a registered release; `version` is normalized."""
        key = (self.index, self.project, version)
        row = driver(self.connection).execute(_RELEASE, key).fetchone()
        known = None if row is None else orjson.loads(row[0])
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
