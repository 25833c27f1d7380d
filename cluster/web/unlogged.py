"""Files of pages that came straight from an upstream while the primary was away.

No log entry names them, so a link to one is only good as long as this node remembers it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable

from attrs import define, field

from cluster.model import DistributionFile, MirrorIndex
from cluster.names import NormalizedName
from cluster.simple.pages import digest_prefix
from cluster.state.links import LocatedFile

_MOST = 20_000


@define
class UnloggedFiles:
    """The last files seen, by the digest in their link and their name."""

    _files: OrderedDict[tuple[str, str], LocatedFile] = field(factory=OrderedDict)

    def remember(
        self, index: MirrorIndex, project: NormalizedName, files: Iterable[DistributionFile]
    ) -> None:
        """Keep what a page that is about to be served links to."""
        for file in files:
            key = (digest_prefix(file), file.filename)
            self._files[key] = LocatedFile(index, project, file)
            self._files.move_to_end(key)
        while len(self._files) > _MOST:
            self._files.popitem(last=False)

    def get(self, link: str, filename: str) -> LocatedFile | None:
        """The file behind a link, if it is remembered."""
        return self._files.get((link, filename))
