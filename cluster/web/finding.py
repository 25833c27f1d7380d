"""What a node offers to those who look for projects: one part, made of the three ways to ask."""

from __future__ import annotations

from attrs import define
from klein import Klein

from cluster.web import legacy, search
from cluster.web.legacy import LegacyJson
from cluster.web.search import SearchPages
from cluster.web.xmlrpc import XmlRpc


@define
class Finding:
    """The legacy JSON documents, the search as JSON, and XML-RPC.

    XML-RPC has no route of its own: it shares its path with the writes, so each role asks
    `cluster.web.xmlrpc.is_xmlrpc` first.
    """

    legacy: LegacyJson
    pages: SearchPages
    xmlrpc: XmlRpc


def add_routes(app: Klein) -> None:
    """Register what is read by GET."""
    legacy.add_routes(app)
    search.add_routes(app)
