"""Where a primary gets a file: a mirrored one from its upstream, a lost one from replicas."""

from __future__ import annotations

from attrs import frozen

from cluster.files.siblings import ALL
from cluster.files.sources import Source, Wanted
from cluster.model import MirrorIndex
from cluster.parts import Parts
from cluster.state.links import LocatedFile, file_by_digest
from cluster.upstreamfiles import upstream_sources


@frozen
class FileSources:
    """The sources of each file, in the order in which they are asked.

    Replicas give what they have whole: what still arrives there comes from this node.
    """

    _parts: Parts

    def asked(self, located: LocatedFile, path: str) -> list[Source]:
        """For a client, or a replica, that wants a file."""
        upstream = upstream_sources(self._parts, located, vouches=True)
        most = ALL if not isinstance(located.index, MirrorIndex) else 2
        sha256 = located.file.sha256
        if sha256 is None:
            return upstream
        return [*upstream, *self._parts.siblings.sources(sha256, most, arriving=False)]

    async def refetch(self, sha256: str, size: int) -> None:
        """Get a damaged file again; raises NotFound, UpstreamError, Unavailable."""
        siblings = self._parts.siblings.sources(sha256, ALL, arriving=False)
        located = await self._parts.database.read(lambda c: file_by_digest(c, sha256))
        upstream = [] if located is None else upstream_sources(self._parts, located)
        url = None if located is None else located.file.url
        wanted = Wanted(sha256, sha256=sha256, size=size, url=url)
        sources = [*siblings, *upstream]
        await self._parts.fetcher.start(wanted, sources, counted=False).done()
