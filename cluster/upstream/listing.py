"""The names of an upstream's project list, streamed with flat memory (pure; PEP 503, 691).

The list of a large upstream has 700,000 names in 40 MB, so no document is ever built.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from html import unescape
from typing import BinaryIO

import ijson  # type: ignore[import-untyped]

from cluster.errors import InvalidRequest, UpstreamError
from cluster.names import project_name

# No "<" or ">" inside: each attempt ends at the next tag, so hostile input costs linear time.
_ANCHOR = re.compile(rb"<a(?:\s[^<>]*)?>([^<>]*)</a\s{0,9}>", re.IGNORECASE)
_MAX_ANCHOR = 4096  # bytes; what is longer is no name
_MAX_TEXT = 1024


def iter_names_html(chunks: Iterable[bytes]) -> Iterator[str]:
    """The project names of an HTML list, as spelled in the link texts; others are skipped.

    `chunks` are the bytes of the page, cut anywhere.
    """
    tail = b""
    for chunk in chunks:
        window = tail + chunk
        end = 0
        for anchor in _ANCHOR.finditer(window):
            end = anchor.end()
            text = anchor[1][:_MAX_TEXT].decode("ascii", "replace")
            # Directory listings of web servers write "name/".
            name = unescape(text).strip().removesuffix("/")
            if _is_name(name):
                yield name
        tail = window[max(end, len(window) - _MAX_ANCHOR) :]


def iter_names_json(file: BinaryIO) -> Iterator[str]:
    """The project names of a JSON list (PEP 691), as spelled; others are skipped.

    Raises UpstreamError, perhaps after some names, if the document is not such a list.
    """
    is_list = False
    try:
        for prefix, event, value in ijson.parse(file):
            if prefix == "projects.item.name":
                if event == "string" and _is_name(value):
                    yield value
            elif prefix == "projects" and event == "start_array":
                is_list = True
            elif prefix == "meta.api-version" and str(value).partition(".")[0] != "1":
                raise UpstreamError(f"unknown version of the simple API: {str(value)[:20]!a}")
    except (ijson.JSONError, ValueError) as e:
        raise UpstreamError(f"not a project list: {str(e)[:100]!a}") from e
    if not is_list:
        raise UpstreamError("not a project list: JSON without projects")


def _is_name(text: str) -> bool:
    try:
        project_name(text)
    except InvalidRequest:
        return False
    return True
