"""/+status for the one who asks: what names restricted indexes is for those who may read them."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from cluster.state import queries
from cluster.web.access import is_public, reader_of
from cluster.web.request import NodeRequest


async def status_for(web: Any, request: NodeRequest) -> dict[str, Any]:
    """The status document as far as the sender of the request may see it."""
    document: dict[str, Any] = web.status.document()
    indexes = await web.database.read(queries.indexes_of)
    if is_public(indexes):
        return document
    reader = await reader_of(web.identity, request)
    readable = {index.name for index in indexes if reader(index)}
    return document if len(readable) == len(indexes) else without_others(document, readable)


def without_others(document: dict[str, Any], readable: Collection[str]) -> dict[str, Any]:
    """A status document without what is about other indexes than these.

    A failed file whose source is a node may be of any index, so it is left out too.
    """
    files, triggers = document["files"], document.get("triggers")
    failures = [one for one in files["failures"] if one["source"] in readable]
    upstreams = {name: one for name, one in document["upstreams"].items() if name in readable}
    shown = {**document, "files": {**files, "failures": failures}, "upstreams": upstreams}
    if triggers is not None:
        shown["triggers"] = [one for one in triggers if one["index"] in readable]
    return shown
