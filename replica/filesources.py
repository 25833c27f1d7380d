"""Where a replica gets a file: from a sibling that has it, the primary, or an upstream."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from attrs import frozen

from cluster.agent import Requester
from cluster.files.siblings import ALL, MOST_ASKED
from cluster.files.sources import HttpSource, Source, Wanted
from cluster.parts import Parts
from cluster.protocol import FILE_PATH, PULL_PATH, VIA_HEADER
from cluster.state.links import LocatedFile, file_by_digest
from cluster.upstreamfiles import upstream_sources
from replica.primary_client import PrimaryClient


@frozen
class FileSources:
    """The sources of each file, in the order in which they are asked.

    `reachable` is whether the primary answers: one that does not costs a time-out, which not
    every client should pay.
    """

    _parts: Parts
    _client: PrimaryClient
    _agent: Requester
    _reachable: Callable[[], bool]

    def asked(self, located: LocatedFile, path: str) -> list[Source]:
        """For a client that wants a file, which `path` names on the primary too."""
        upstream, primary = upstream_sources(self._parts, located), self._primary(path)
        sha256 = located.file.sha256
        siblings = [] if sha256 is None else self._parts.siblings.sources(sha256)
        if self._reachable():
            return [*siblings, primary, *upstream]
        return [*siblings, *upstream, primary]

    def hosted(self, sha256: str, via: str | None = None) -> list[Source]:
        """For an uploaded file that is to be kept here, or is asked for through the nodes `via`.

        Whom we follow may not have it, or not yet: another replica then gets it for us.
        """
        siblings = self._parts.siblings.sources(sha256, ALL)
        followed = [self._primary(f"{FILE_PATH}/{sha256}")]
        if self._client.chain:
            passed = {VIA_HEADER: via or self._parts.uuid}
            followed.insert(0, self._primary(f"{PULL_PATH}/{sha256}", passed))
        return [*siblings[:MOST_ASKED], *followed, *siblings[MOST_ASKED:]]

    async def refetch(self, sha256: str, size: int) -> None:
        """Get a damaged file again; raises NotFound, UpstreamError, Unavailable."""
        sources = self.hosted(sha256)
        located = await self._parts.database.read(lambda c: file_by_digest(c, sha256))
        if located is not None:
            sources += upstream_sources(self._parts, located)
        url = None if located is None else located.file.url
        wanted = Wanted(sha256, sha256=sha256, size=size, url=url)
        await self._parts.fetcher.start(wanted, sources, counted=False).done()

    def _primary(self, path: str, more: Mapping[str, str] | None = None) -> HttpSource:
        url = self._client.url + path
        headers = {**self._client.headers("GET", path), **(more or {})}
        return HttpSource("primary", self._agent, lambda wanted: url, headers)
