"""Distribution files and their metadata: /<user>/<index>/+f/… and +e/… (standards F, M)."""

from __future__ import annotations

import mimetypes
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from typing import Protocol

from attrs import define, evolve
from sqlalchemy import Connection
from twisted.internet.defer import Deferred
from twisted.logger import Logger

from cluster.errors import Gone, NotFound, UpstreamError
from cluster.files.fetch import Fetcher, Transfer
from cluster.files.sources import Source, Wanted
from cluster.files.store import FileStore
from cluster.model import DistributionFile, MirrorIndex
from cluster.names import IndexName
from cluster.protocol import SOURCE_HEADER
from cluster.state import links, queries
from cluster.state.database import Database
from cluster.state.links import LocatedFile
from cluster.state.position import Position
from cluster.web.access import is_node, is_public, reader_of
from cluster.web.filebody import send_stored, send_transfer
from cluster.web.fileplan import IMMUTABLE, FileFacts
from cluster.web.hotfiles import SMALL_BYTES, HotFile, HotFiles, send_hot
from cluster.web.identity import Identity
from cluster.web.nodefiles import serve_node_file
from cluster.web.request import NodeRequest
from cluster.web.unlogged import UnloggedFiles

METADATA_SUFFIX = ".metadata"
UNVERIFIED = "upstream-unverified"
PRIVATE = "max-age=31536000, immutable, private"


class Sources(Protocol):
    """Who may have a file, in the order in which to ask."""

    def __call__(self, located: LocatedFile, path: str) -> Sequence[Source]:
        """`path` is where a node serves the file."""


Learned = Callable[[LocatedFile, str, int], Awaitable[None]]


@define
class Files:
    """Serves files from the store, else while they arrive from a source.

    `learned` is told the sha256 and size of a file that upstream gave no hash for.
    """

    _log = Logger()

    _database: Database
    _store: FileStore
    _fetcher: Fetcher
    _sources: Sources
    _unlogged: UnloggedFiles
    _learned: Learned | None
    _position: Position
    _hot: HotFiles
    _identity: Identity

    def hot(self, request: NodeRequest) -> bool:
        """Answer from memory if the bytes are there."""
        file = self._hot.get(request.path)
        return file is not None and send_hot(request, file, self._store)

    async def serve(
        self, request: NodeRequest, index: IndexName, kind: str, link: str, filename: str
    ) -> None:
        """Answer with a file or its metadata; raises NotFound, UpstreamError."""
        hot = self._hot.get(request.path)
        if hot is not None and await self._send_stored(request, hot.facts):
            return
        read_at = self._position.serial
        wants_metadata = filename.endswith(METADATA_SUFFIX)
        name = filename.removesuffix(METADATA_SUFFIX)
        located, is_private = await self._locate(request, index, kind, link, name)
        if wants_metadata:
            located = evolve(located, file=_metadata_of(located.file))
        sha256, content_type = located.file.sha256, _content_type(filename)
        caching = PRIVATE if is_private else IMMUTABLE
        facts = FileFacts(sha256, _epoch(located.file.upload_time), content_type, caching)
        size = None if sha256 is None else await self._store.size_of(sha256)
        if sha256 is not None and size is not None:
            body = await self._read(sha256) if size <= SMALL_BYTES else None
            file = HotFile(located.project, read_at, facts, body)
            if not is_private:
                self._hot.put(request.path, file)
            if send_hot(request, file, self._store) or await self._send_stored(request, facts):
                return
        if _is_elsewhere(located) and not wants_metadata and not is_node(self._identity, request):
            _send_elsewhere(request, str(located.file.url))
            return
        transfer = self.fetch(located, request.path.decode("ascii"))
        if sha256 is None:
            # Nobody may cache for ever what nobody has verified.
            facts = evolve(facts, cache_control="private, no-store" if is_private else "max-age=60")
            await transfer.arrival()
            if transfer.is_unverified:
                request.setHeader(SOURCE_HEADER, UNVERIFIED)
        await send_transfer(request, transfer, self._store.threads, facts)

    async def send(self, request: NodeRequest, located: LocatedFile, facts: FileFacts) -> None:
        """Answer with a file whose sha256 is known; raises UpstreamError when nobody has it."""
        if await self._send_stored(request, facts):
            return
        transfer = self.fetch(located, request.path.decode("ascii"))
        await send_transfer(request, transfer, self._store.threads, facts)

    async def send_here(self, request: NodeRequest, sha256: str) -> None:
        """Answer another node with what is here; raises NotFound."""
        await serve_node_file(request, self._store, self._fetcher, sha256)

    async def _send_stored(self, request: NodeRequest, facts: FileFacts) -> bool:
        """Answer from the store; False when the file is not here (any more)."""
        sha256 = facts.sha256 or ""
        if await self._store.size_of(sha256) is None:
            return False
        try:
            with self._store.using(sha256):
                await send_stored(request, self._store, facts)
        except FileNotFoundError:
            self._store.lost(sha256)
            return False
        return True

    async def _read(self, sha256: str) -> bytes:
        return await self._store.threads.run(self._store.path(sha256).read_bytes)

    async def locate(
        self, request: NodeRequest, index: IndexName, kind: str, link: str, name: str
    ) -> LocatedFile:
        """The file behind a link, if the sender of the request may read it.

        Raises NotFound, Gone, AuthenticationRequired.
        """
        return (await self._locate(request, index, kind, link, name))[0]

    async def _locate(
        self, request: NodeRequest, index: IndexName, kind: str, link: str, name: str
    ) -> tuple[LocatedFile, bool]:
        def look(connection: Connection) -> LocatedFile | None:
            start = queries.index_or_404(connection, index)
            if not is_public(queries.chain(connection, start)):
                return None
            return links.file_by_link(connection, start, kind, link, name)

        try:
            found = await self._database.read(look)
        except NotFound:
            remembered = self._unlogged.get(link, name)
            if remembered is None or not await self._reaches(index, remembered.index.name):
                raise
            return remembered, False
        if found is not None:
            return found, False
        return await self._locate_private(request, index, (kind, link, name)), True

    async def _reaches(self, index: IndexName, mirror: IndexName) -> bool:
        """Whether a mirror is one of those that an index's pages are made of."""

        def look(connection: Connection) -> bool:
            chain = queries.chain(connection, queries.index_or_404(connection, index))
            return mirror in {one.name for one in chain}

        return await self._database.read(look)

    async def _locate_private(
        self, request: NodeRequest, index: IndexName, link: tuple[str, str, str]
    ) -> LocatedFile:
        def project(connection: Connection) -> str | None:
            start = queries.index_or_404(connection, index)
            try:
                return links.file_by_link(connection, start, *link).project
            except (NotFound, Gone):
                return None

        # Whether somebody may read can depend on the project; whether there is such a file is
        # told only to who may.
        reader = await reader_of(self._identity, request, await self._database.read(project))

        def look(connection: Connection) -> LocatedFile:
            start = queries.index_or_404(connection, index)
            reader.require(start)
            return links.file_by_link(connection, start, *link, may_read=reader)

        return await self._database.read(look)

    def fetch(self, located: LocatedFile, path: str) -> Transfer:
        """Fetch a file into the store, or join the fetch that is under way."""
        file = located.file
        wanted = Wanted(file.filename, file.sha256, file.size, dict(file.hashes), file.url)
        transfer = self._fetcher.start(wanted, self._sources(located, path))
        if file.sha256 is None and self._learned is not None:
            Deferred.fromCoroutine(self._learn(located, transfer))
        return transfer

    async def _learn(self, located: LocatedFile, transfer: Transfer) -> None:
        assert self._learned is not None  # noqa: S101
        try:
            digests = await transfer.done()
            await self._learned(located, digests.sha256, digests.size)
        except (UpstreamError, NotFound):
            return  # whoever asked for the file is told; there is nothing to learn
        except Exception:
            self._log.failure("{file}: its digest is not logged", file=located.file.filename)


def _metadata_of(file: DistributionFile) -> DistributionFile:
    """The file's METADATA as a file of its own: same place plus ``.metadata`` (PEP 658)."""
    if file.core_metadata is None:
        raise NotFound(f"no metadata of {file.filename} is known")
    return DistributionFile(
        file.filename + METADATA_SUFFIX,
        hashes={"sha256": file.core_metadata},
        url=None if file.url is None else file.url + METADATA_SUFFIX,
        upload_time=file.upload_time,
    )


def _content_type(filename: str) -> str:
    if filename.endswith(METADATA_SUFFIX):
        return "text/plain; charset=utf-8"
    guessed, encoding = mimetypes.guess_type(filename, strict=False)
    # Never text/html or the like: what people upload must not run in a browser (T9).
    known = guessed in ("application/zip", "application/x-tar") and encoding is None
    return guessed if known and guessed else "application/octet-stream"


def _epoch(upload_time: str | None) -> int | None:
    if upload_time is None:
        return None
    try:
        return int(datetime.fromisoformat(upload_time).timestamp())
    except ValueError:
        return None


def _is_elsewhere(located: LocatedFile) -> bool:
    """Whether clients get a file that is not here from the upstream themselves."""
    index = located.index
    wanted = isinstance(index, MirrorIndex) and index.mirror_use_external_urls
    return wanted and located.file.url is not None


def _send_elsewhere(request: NodeRequest, url: str) -> None:
    """Name the upstream's place of a file, without any password: that is for nodes alone."""
    request.setResponseCode(302)
    request.set_common_headers()
    request.setHeader("Location", url)
    request.setHeader("Cache-Control", "no-store")
    request.setHeader("Content-Length", "0")
    request.finish()
