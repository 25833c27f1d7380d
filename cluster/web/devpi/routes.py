"""The application of a node with what devpi-client reads; the roles add what it writes."""

from __future__ import annotations

from attrs import define
from klein import Klein

from cluster.web import authcheck, docs, finding, fingerprints, nearest, provenance, stages
from cluster.web.devpi import discovery, indexes, projects, users
from cluster.web.devpi.discovery import Discovery
from cluster.web.devpi.indexes import IndexPages
from cluster.web.devpi.projects import ProjectPages
from cluster.web.devpi.users import UserPages
from cluster.web.docs import DocsPages
from cluster.web.finding import Finding
from cluster.web.nearest import Nearest
from cluster.web.routes import NodeWeb, add_common_routes


@define
class DevpiWeb(NodeWeb):
    """What both kinds of node serve, devpi's JSON included."""

    discovery: Discovery
    user_pages: UserPages
    index_pages: IndexPages
    project_pages: ProjectPages
    finding: Finding
    docs: DocsPages
    nearest: Nearest


def add_read_routes(app: Klein) -> None:
    """Register what both kinds of node serve."""
    add_common_routes(app)
    for module in (
        discovery, users, indexes, projects, finding, provenance, stages, docs, authcheck,
        nearest, fingerprints,
    ):  # fmt: skip
        module.add_routes(app)
