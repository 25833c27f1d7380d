"""A mirror's release as something to push: its files fetched, its metadata read out of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from attrs import define, evolve, frozen
from packaging.metadata import parse_email
from packaging.utils import canonicalize_name
from twisted.internet.defer import Deferred, FirstError, gatherResults

from cluster.errors import InvalidRequest, UpstreamError
from cluster.files.fetch import Transfer
from cluster.files.store import FileStore
from cluster.model import DistributionFile, MirrorIndex
from cluster.state.contents import HeldFile
from cluster.state.database import Database
from cluster.state.freshness import Outcome
from cluster.state.links import LocatedFile
from cluster.threads import Runner
from cluster.upstream.ondemand import OnDemand
from primary.devpi.pushrules import Release, Wish, release_of
from primary.mirroring.delta import computed
from primary.releasemetadata import complete, metadata_of_form
from primary.uploadchecks import read_pkg_info, read_wheel_metadata

_AT_ONCE = 4
_SDISTS = (".tar.gz", ".zip")

Fetch = Callable[[LocatedFile, str], Transfer]


@frozen
class _Metadata:
    """A file's METADATA or PKG-INFO: byte for byte, and as the fields of an upload's form."""

    raw: bytes
    fields: dict[str, list[str]]


@define
class MirroredReleases:
    """Makes releases of mirrors ready to be pushed; `fetch` starts or joins a file's fetch."""

    _database: Database
    _mirror: OnDemand
    _fetch: Fetch
    _store: FileStore
    _heavy: Runner

    async def release(self, wish: Wish, index: MirrorIndex) -> Release:
        """A release with all its files in the store, as a hosted index holds releases.

        Raises InvalidRequest for a version that the upstream does not have, UpstreamError when
        it does not answer, or does not deliver a file.
        """
        answer = await self._mirror.ensure(index, wish.project)
        try:
            found = await self._database.read(lambda c: release_of(c, wish))
        except InvalidRequest:
            if answer.freshness.outcome is Outcome.ERROR:
                raise UpstreamError(f"{index.name}: {answer.freshness.error}") from None
            raise
        fetched = await self._fetched(index, found)
        return await self._described(found, fetched)

    async def _fetched(self, index: MirrorIndex, release: Release) -> list[DistributionFile]:
        waiting = [held.file for held in release.files]
        done: list[DistributionFile] = []

        async def work() -> None:
            try:
                while waiting:
                    located = LocatedFile(index, release.project, waiting.pop())
                    done.append(await self._stored(located))
            except BaseException:
                waiting.clear()  # nobody wants the others any more
                raise

        try:
            workers = [Deferred.fromCoroutine(work()) for _ in range(_AT_ONCE)]
            await gatherResults(workers, consumeErrors=True)
        except FirstError as error:
            error.subFailure.raiseException()
        return sorted(done, key=lambda file: file.filename)

    async def _stored(self, located: LocatedFile) -> DistributionFile:
        file = located.file
        size = None if file.sha256 is None else await self._store.size_of(file.sha256)
        if size is None:
            digests = await self._fetch(located, "").done()
            if file.sha256 is None:
                self._store.claim(digests.sha256)
                return computed(file, digests.sha256, digests.size)
            size = digests.size
        # Until its entry is there it must not go with the cache.
        self._store.claim(file.sha256 or "")
        if file.size is None:
            return evolve(file, size=size, origin={**file.origin, "size": "computed"})
        return file

    async def _described(self, release: Release, files: list[DistributionFile]) -> Release:
        """The release with the metadata of its first wheel, else of its sdist."""
        held: list[HeldFile] = []
        metadata: dict[str, Any] | None = None
        for file in sorted(files, key=lambda file: not file.filename.endswith(".whl")):
            if metadata is None or file.filename.endswith(".whl"):
                read = await self._heavy.run(
                    _read, self._store.path(file.sha256 or ""), file.filename
                )
                metadata = metadata or _metadata_of(release, read)
            else:
                read = None
            held.append(HeldFile(await self._hosted(file, read), []))
        return evolve(
            release,
            files=tuple(sorted(held, key=lambda held: held.file.filename)),
            metadata=complete(release.metadata if metadata is None else metadata),
        )

    async def _hosted(self, file: DistributionFile, read: _Metadata | None) -> DistributionFile:
        """A mirrored file with what an uploaded one has; what upstream says of it stays."""
        # Its place upstream does not count: a hosted file is here.
        facts: dict[str, Any] = {"url": None, "core_metadata": None}
        origin = {k: v for k, v in file.origin.items() if k != "core_metadata"}
        if read is not None and file.filename.endswith(".whl"):
            facts["core_metadata"] = (await self._store.add_bytes(read.raw)).sha256
            if facts["core_metadata"] != file.core_metadata:
                origin["core_metadata"] = "computed"
        requires_python = "" if read is None else read.fields.get("requires_python", [""])[0]
        if file.requires_python is None and requires_python:
            facts["requires_python"] = requires_python
            origin["requires_python"] = "computed"
        return evolve(file, **facts, origin=origin)


def _read(path: Path, filename: str) -> _Metadata | None:
    """A file's metadata; None for a kind of file that has none, and for a broken archive."""
    try:
        if filename.endswith(".whl"):
            raw = read_wheel_metadata(path, filename)
        elif filename.endswith(_SDISTS):
            raw = read_pkg_info(path, filename)
        else:
            return None
    except InvalidRequest:
        return None
    fields: dict[str, list[str]] = {}
    for key, value in parse_email(raw)[0].items():
        if isinstance(value, dict):  # Project-URL
            fields[key] = [f"{label}, {url}" for label, url in value.items()]
        else:
            fields[key] = value if isinstance(value, list) else [str(value)]
    return _Metadata(raw, fields)


def _metadata_of(release: Release, read: _Metadata | None) -> dict[str, Any] | None:
    if read is None:
        return None
    name = read.fields.get("name", [""])[0]
    if canonicalize_name(name) != release.project:
        return None  # not of this project: whatever it says
    try:
        return dict(metadata_of_form(read.fields, name, release.version))
    except InvalidRequest:
        return None
