"""An upstream as the source of a file."""

from __future__ import annotations

from collections.abc import Mapping

from cluster.files.sources import AuthorizedSource, Source
from cluster.model import MirrorIndex
from cluster.parts import Parts
from cluster.state.links import LocatedFile


def upstream_sources(parts: Parts, located: LocatedFile, *, vouches: bool = False) -> list[Source]:
    """The upstream of a mirrored file; nothing for an uploaded one.

    `vouches` is whether this node decides what a file without a digest is: the primary alone.
    """
    if not isinstance(located.index, MirrorIndex) or located.file.url is None:
        return []
    index = located.index

    async def headers(url: str) -> Mapping[str, str]:
        return await parts.credentials.headers(index, url)

    # What nobody has hashed is the primary's to vouch for (design: an upstream without hashes).
    kept = vouches or located.file.sha256 is not None
    return [AuthorizedSource(index.name, parts.agent, headers, kept)]
