"""Which requests bring a test's result: known from the headers alone, before any byte of it."""

from __future__ import annotations

from typing import Final
from urllib.parse import unquote

from attrs import frozen

from cluster.names import IndexName
from cluster.web.request import NodeRequest
from cluster.web.routes import checked

_KINDS: Final = ("+f", "+e")


@frozen
class FileLink:
    """A link to a file below an index: ``<index>/<kind>/<link, in two parts>/<filename>``."""

    index: IndexName
    kind: str
    link: str
    filename: str

    @property
    def path(self) -> str:
        """The link as devpi names it in messages and answers: without a slash before it."""
        return f"{self.index}/{self.kind}/{self.link[:3]}/{self.link[3:]}/{self.filename}"


def is_toxresult(request: NodeRequest) -> bool:
    """Whether a request brings the result of a test: it is a POST to a file's link."""
    parts = _parts(request)
    return request.method == b"POST" and len(parts) == 7 and parts[3] in _KINDS


def tested_link(request: NodeRequest) -> FileLink:
    """The file that was tested, for a request of which `is_toxresult` is true.

    Raises InvalidRequest for names that cannot be.
    """
    _, user, name, kind, head, rest, filename = map(unquote, _parts(request))
    return FileLink(checked(user, name), kind, head + rest, filename)


def _parts(request: NodeRequest) -> list[str]:
    return request.path.decode("ascii", "replace").split("/")
