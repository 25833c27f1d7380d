"""The legacy upload API (devpi-api §6, standards.md §6): from a form to entries of the log.

Order: headers, room and replicas checked → body streamed to disk while hashed → digests, names
and metadata checked → file and metadata durable in the store → entries committed → answer with
their serial.
A crash between leaves an unreferenced file, never a name without bytes.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Final

from attrs import define, evolve, frozen

from cluster.auth.acl import Principal, require_upload
from cluster.errors import TooLarge
from cluster.files.store import FileStore
from cluster.model import DistributionFile
from cluster.names import IndexName
from cluster.state.directory import Directory
from cluster.threads import Runner
from cluster.web.body import RequestStream
from cluster.web.identity import Identity
from cluster.web.replies import Reply, text_reply
from cluster.web.request import NodeRequest
from cluster.web.stages import stage_of
from primary.acks import Acks
from primary.attestations import provenance_of
from primary.releasemetadata import metadata_of_form
from primary.room import Room
from primary.uploadchecks import check_digests, check_docs, inspect, named_release
from primary.uploadform import Action, Form, action_of, form_of
from primary.uploadrules import Upload, docs_uploaded, file_uploaded, submitted, taking_uploads
from primary.writer import Decide, Writer, timestamp

MAX_UPLOAD_BYTES = 16 << 30
_ANONYMOUS: Final = ":anonymous:"


@frozen
class _Prepared:
    """An upload whose bytes are durable; `what` names it for people."""

    what: str
    decide: Decide


@define
class Uploads:
    """Takes uploads to hosted indexes."""

    _directory: Directory
    _writer: Writer
    _store: FileStore
    _inspectors: Runner
    _identity: Identity
    _room: Room
    _acks: Acks
    _now: Callable[[], datetime]

    async def admit(self, request: NodeRequest, index: IndexName, size: int = 0) -> Principal:
        """Check from the headers alone whether this user may upload to this index, and whether
        `size` bytes could be stored and acknowledged.

        Raises NotFound, AuthenticationRequired, Forbidden, DiskRefused, NotReplicated.
        """
        found = taking_uploads(await self._directory.index_or_404(index))
        who = await self._identity.user(request)
        require_upload(who, found)
        await self._acks.require_reachable(index)
        self._room.require(size)
        return who

    async def take(self, request: NodeRequest, stream: RequestStream, index: IndexName) -> Reply:
        """Take one upload; raises what is wrong with it."""
        if stream.length is not None and stream.length > MAX_UPLOAD_BYTES:
            raise TooLarge(f"uploads have at most {MAX_UPLOAD_BYTES} bytes")
        form = form_of(
            request.header("Content-Type"), self._store, MAX_UPLOAD_BYTES, stream,
            self._room.require,
        )  # fmt: skip
        who = await self.admit(request, index, stream.length or 0)
        stage = stage_of(request)
        try:
            try:
                with self._room.taking(stream):
                    await stream.deliver(form)
            finally:
                form.check()
            form.finish()
            upload = Upload(index, who, self._now(), stage)
            prepared = await self._prepared(form, upload)
        finally:
            await form.abort()
        written = await self._writer.write(who.name or _ANONYMOUS, prepared.decide, index)
        headers = written.headers
        if not written.changed:
            text = f"{prepared.what} was on {index} already, with the same content"
            return evolve(text_reply(text, headers=headers), reason=text)
        staged = "" if stage is None else f", in stage {stage}"
        return text_reply(f"{prepared.what} is on {index}{staged}", headers=headers)

    async def _prepared(self, form: Form, upload: Upload) -> _Prepared:
        match action_of(form):
            case Action.SUBMIT:
                return self._release(form, upload)
            case Action.DOC_UPLOAD:
                return await self._docs(form, upload)
            case Action.FILE_UPLOAD:
                return await self._file(form, upload)

    def _release(self, form: Form, upload: Upload) -> _Prepared:
        name, project, version = named_release(form.fields)
        metadata = metadata_of_form(form.fields, name, version)
        return _Prepared(
            f"{name} {version}", lambda c: submitted(c, upload, project, metadata)
        )  # fmt: skip

    async def _docs(self, form: Form, upload: Upload) -> _Prepared:
        content = form.content()
        name, project, version = named_release(form.fields, version_needed=False)
        digests = await content.sink.finish()
        await self._inspectors.run(check_docs, content.sink.path, content.filename)
        await self._store.add(content.sink)
        facts = {"sha256": digests.sha256, "size": digests.size}
        named = {"name": name, "version": version}
        return _Prepared(
            f"documentation of {name} {version}".strip(),
            lambda c: docs_uploaded(c, upload, project, named, facts),
        )

    async def _file(self, form: Form, upload: Upload) -> _Prepared:
        content = form.content()
        digests = await content.sink.finish()
        check_digests(form.fields, digests)
        provenance = provenance_of(form.fields)
        inspected = await self._inspectors.run(
            inspect, content.sink.path, content.filename, form.fields
        )
        metadata = metadata_of_form(form.fields, inspected.name, inspected.version)
        core_metadata, attestations = await self._kept(form, inspected.metadata, provenance)
        file = DistributionFile(
            content.filename,
            version=inspected.version,
            hashes={"sha256": digests.sha256},
            size=digests.size,
            requires_python=inspected.requires_python,
            upload_time=timestamp(upload.when),
            core_metadata=core_metadata,
            attestations=attestations,
        )
        project = inspected.project
        return _Prepared(
            file.filename, lambda c: file_uploaded(c, upload, project, metadata, file)
        )  # fmt: skip

    async def _kept(self, form: Form, *blobs: bytes | None) -> list[str | None]:
        """Make the uploaded file and what belongs to it durable, all at once."""
        there = [blob for blob in blobs if blob is not None]
        _, *kept = await self._store.add_with(form.content().sink, *there)
        names = (digests.sha256 for digests in kept)
        return [None if blob is None else next(names) for blob in blobs]
