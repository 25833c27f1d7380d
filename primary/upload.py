"""The legacy upload API (standards.md §6): from a form to a log entry.

Order: headers checked → body streamed to disk while hashed → digests, names and metadata
checked → file and metadata durable in the store → entry committed → answer with its serial. A
crash between leaves an unreferenced file, never a name without bytes.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from attrs import define
from sqlalchemy import Connection
from twisted.internet.defer import Deferred

from cluster.auth.acl import Principal, require_upload
from cluster.errors import Conflict, NotFound, TooLarge
from cluster.files.sink import Digests
from cluster.files.store import FileStore
from cluster.log.changes import Change, Kind
from cluster.model import DistributionFile, HostedIndex
from cluster.names import IndexName
from cluster.protocol import SERIAL_HEADER
from cluster.state import queries
from cluster.state.database import Database
from cluster.threads import Runner
from cluster.web.body import RequestStream
from cluster.web.identity import Identity
from cluster.web.replies import Reply, text_reply
from cluster.web.request import NodeRequest
from primary.uploadchecks import Inspected, check_digests, inspect
from primary.uploadform import UploadForm, boundary_of
from primary.writer import Writer, timestamp

MAX_UPLOAD_BYTES = 16 << 30


@define
class Uploads:
    """Takes uploads to hosted indexes."""

    _database: Database
    _writer: Writer
    _store: FileStore
    _inspectors: Runner
    _identity: Identity
    _now: Callable[[], datetime]

    async def admit(self, request: NodeRequest, index: IndexName) -> Principal:
        """Check from the headers alone whether this user may upload to this index.

        Raises NotFound, AuthenticationRequired, Forbidden.
        """
        found = await self._database.read(lambda c: queries.index_or_404(c, index))
        if not isinstance(found, HostedIndex):
            raise NotFound(f"cannot submit to mirror index {index}")
        who = await self._identity.user(request)
        require_upload(who, found)
        return who

    async def take(self, request: NodeRequest, stream: RequestStream, index: IndexName) -> Reply:
        """Take one upload; raises what is wrong with it."""
        if stream.length is not None and stream.length > MAX_UPLOAD_BYTES:
            raise TooLarge(f"uploads have at most {MAX_UPLOAD_BYTES} bytes")
        boundary = boundary_of(request.header("Content-Type"))
        who = await self.admit(request, index)
        form = UploadForm(boundary, self._store, MAX_UPLOAD_BYTES, stream)
        try:
            try:
                await stream.deliver(form)
            finally:
                form.check()
            content = form.finish()
            digests = await content.sink.finish()
            check_digests(form.fields, digests)
            inspected = await self._inspectors.run(
                inspect, content.sink.path, content.filename, form.fields
            )
            metadata = Deferred.fromCoroutine(self._keep_metadata(inspected))
            try:
                await self._store.add(content.sink)
            finally:
                core_metadata = await metadata
        finally:
            await form.abort()
        file = self._described(inspected, content.filename, digests, core_metadata)
        actor = who.name or ":anonymous:"
        written = await self._writer.write(actor, lambda c: self._decide(c, index, inspected, file))
        text = f"{file.filename} is on {index}" if written.changed else (
            f"{file.filename} was on {index} already, with the same bytes"
        )  # fmt: skip
        return text_reply(text, headers={SERIAL_HEADER: str(written.serial)})

    async def _keep_metadata(self, inspected: Inspected) -> str | None:
        if inspected.metadata is None:
            return None
        return (await self._store.add_bytes(inspected.metadata)).sha256

    def _described(
        self, inspected: Inspected, filename: str, digests: Digests, core_metadata: str | None
    ) -> DistributionFile:
        return DistributionFile(
            filename,
            version=inspected.version,
            hashes={"sha256": digests.sha256},
            size=digests.size,
            requires_python=inspected.requires_python,
            upload_time=timestamp(self._now()),
            core_metadata=core_metadata,
        )

    def _decide(
        self, connection: Connection, index: IndexName, inspected: Inspected, file: DistributionFile
    ) -> list[Change]:
        if not isinstance(queries.index(connection, index), HostedIndex):
            raise NotFound(f"The stage {index} could not be found.")
        project = inspected.project
        known = queries.file_by_name(connection, index, project, file.filename)
        if known is not None and known.sha256 == file.sha256:
            return []
        if known is not None:
            raise Conflict(f"File already exists: {file.filename} on {index} has other bytes")
        where = {"index": index, "project": project, "name": inspected.name}
        return [Change(Kind.FILE_ADDED, {**where, "file": file.to_json()})]
