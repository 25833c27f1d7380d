"""The provenance of a file (PEP 740): a document below its index, on both kinds of node.

Pages do not link it: a link must be an absolute https URL there, and pages are the same bytes on
all nodes, whatever host a client knows them by.
"""

from __future__ import annotations

from typing import Any, Final

from klein import Klein
from sqlalchemy import Connection

from cluster.errors import NotAcceptable, NotFound
from cluster.model import DistributionFile
from cluster.names import IndexName, NormalizedName, project_name
from cluster.state import queries
from cluster.state.contents import same_version
from cluster.state.links import LocatedFile
from cluster.web.access import Reader, reader_of
from cluster.web.fileplan import FileFacts
from cluster.web.request import NodeRequest
from cluster.web.routes import answering, checked

MEDIA_TYPE: Final = "application/vnd.pypi.integrity.v1+json"
PROVENANCE_PATH: Final = (
    "/<user>/<name>/+integrity/<project>/<version>/<filename>/provenance"  # as PyPI has it
)
_ACCEPTED: Final = {MEDIA_TYPE, "application/json", "application/*", "*/*"}


def provenance_file(
    connection: Connection,
    index: IndexName,
    project: NormalizedName,
    release: tuple[str, str],
    reader: Reader,
) -> LocatedFile:
    """The provenance object of a file, as a file of its own; `release` is (version, file name).

    The first index that has the name answers, as on the project's page. Raises NotFound,
    AuthenticationRequired.
    """
    version, filename = release
    start = queries.index_or_404(connection, index)
    reader.require(start)
    for holder in queries.contributing(connection, start, project):
        file = queries.file_by_name(connection, holder.name, project, filename)
        if file is None or not reader(holder):
            continue
        if file.attestations is None or not same_version(file.version or "", version):
            break
        document = DistributionFile("provenance", hashes={"sha256": file.attestations})
        return LocatedFile(holder, project, document)
    raise NotFound(f"no provenance of {filename!r}, version {version!r}, on {index} is known")


def acceptable(accept: str | None) -> bool:
    """Whether a client that sends this Accept header takes the document."""
    ranges = [part.partition(";")[0].strip().lower() for part in (accept or "*/*").split(",")]
    return not _ACCEPTED.isdisjoint(ranges)


def add_routes(app: Klein) -> None:
    """Register the path of provenance objects."""
    app.route(PROVENANCE_PATH, methods=["GET", "HEAD"], strict_slashes=True)(answering(_provenance))


async def _provenance(
    web: Any, request: NodeRequest, user: str, name: str, project: str, version: str,
    filename: str,
) -> None:  # fmt: skip
    index, normalized = checked(user, name), project_name(project)
    reader = await reader_of(web.identity, request, normalized)
    located: LocatedFile = await web.database.read(
        lambda c: provenance_file(c, index, normalized, (version, filename), reader)
    )
    if not acceptable(request.header("Accept")):
        raise NotAcceptable(f"this is {MEDIA_TYPE}")
    # Other bytes may get the file's name on a volatile index: nothing here is for ever.
    facts = FileFacts(located.file.sha256, None, MEDIA_TYPE, "no-cache")
    await web.files.send(request, located, facts)
